"""What a task or function declares of its emails, checked."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import MethodType
from typing import Any, ClassVar

from ..exceptions import (
    ClaimLost,
    DeliveryInDoubt,
    EntryUnreadable,
    KeyFieldError,
    LedgerUnavailable,
    PayloadMismatch,
    RecipientsRefused,
    UnsafeTransaction,
)
from ..ledger.policy import Policy, SendRule, Verifier

ON_CONFLICT = ("retry", "skip", "raise")
ON_MISMATCH = ("warn", "raise", "ignore")
IN_DOUBT = ("hold", "resend")
WINDOW_MODES = ("sliding", "fixed")
LONGEST_TYPE = 200
AUTORETRY = ("autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max", "retry_jitter")
"""Options that Celery reads from a task without declaring them; `Options.dont_autoretry_for` is another."""


class Options:
    """What can be declared of an email type, with its defaults: attributes of a task or of a function."""

    key_fields: ClassVar[tuple[str, ...]] = ()
    """Parameters of ``run`` that identify the event; dotted paths reach into mappings and attributes."""
    key_function: ClassVar[Callable[..., Any] | None] = None
    """Instead of ``key_fields``: called with the task's arguments, returns what identifies the event."""
    email_type: ClassVar[str | None] = None
    """Namespace of the keys. Default: the task's name; set it so that renaming the task keeps its keys."""
    window: ClassVar[timedelta | None] = None
    """A new send is allowed this long after the last acceptance. None: once, while the ledger remembers."""
    window_mode: ClassVar[str] = "sliding"
    """``"sliding"``, or ``"fixed"``: buckets of the event's own time, see ``event_time_field``."""
    event_time_field: ClassVar[str | None] = None
    """Parameter that holds the event's time (an aware datetime, or ISO 8601), for fixed windows."""
    allow_send: ClassVar[SendRule | None] = None
    """A rule for sending a key again, ``rule(entry, request)``: True starts a new generation."""
    lease: ClassVar[float] = 60.0
    """Seconds after which another task may take over a claim that shows no sign of life."""
    send_timeout: ClassVar[float] = 60.0
    """Seconds a hand-over may take; for opaque tasks, the whole body."""
    in_doubt: ClassVar[str | Verifier] = "hold"
    """After a lost reply: ``"hold"``, ``"resend"``, or a verifier ``callable(entry) -> Verdict``."""
    on_conflict: ClassVar[str] = "retry"
    """While another task works on the key: ``"retry"`` (spends no retries), ``"skip"`` or ``"raise"``."""
    on_mismatch: ClassVar[str] = "warn"
    """Same key, other arguments: ``"warn"``, ``"raise"`` or ``"ignore"``."""
    fingerprint_fields: ClassVar[tuple[str, ...] | None] = None
    """Which parameters count as content. Default: all that are not key fields."""
    deferred_retries: ClassVar[int] = 16
    """How often a mail is offered again, where neither the task nor its queue retries, to recipients refused
    for now and to servers that could not be reached: after 1, 2, 4, 8, then every 15 minutes. 0: never."""
    in_doubt_for: ClassVar[tuple[type[Exception], ...]] = ()
    """Exceptions of an opaque body after which the outcome is unknown."""
    dedupe_on_publish: ClassVar[bool] = False
    """Answer a key that is sent already with the first task's result, without publishing a message."""
    filled_in: ClassVar[int] = 0
    """How many of the body's first parameters its queue fills in; they count for nothing."""
    dont_autoretry_for: ClassVar[tuple[type[Exception], ...]] = (
        ClaimLost,
        DeliveryInDoubt,
        EntryUnreadable,
        LedgerUnavailable,
        PayloadMismatch,
        RecipientsRefused,
        UnsafeTransaction,
    )
    """Never retried by the queue's own means: the ledger has its own way with each of them."""


def plain(task: Any, option: str) -> Any:
    """Return the value of ``option``; a function as it was given, without ``self``.

    Celery makes options class attributes, so a function given as one would come back as a bound method.
    """
    value = getattr(task, option)
    return value.__func__ if isinstance(value, MethodType) and value.__self__ is task else value


def signature_of(task: Any) -> inspect.Signature:
    """Return the signature of the task's body, without the parameters that its queue fills in."""
    whole = inspect.signature(getattr(task, "_orig_run", task.run))
    return whole.replace(parameters=list(whole.parameters.values())[task.filled_in :])


def email_type(task: Any) -> str:
    """Return the namespace of the task's keys: its ``email_type``, by default its name."""
    return str(task.email_type or task.name)


def policy(task: Any, opaque: bool) -> Policy:
    """Return the ledger's rules for ``task``. Raises `KeyFieldError` where its window is none."""
    refuse_unusable_window(task)
    window = task.window if task.window_mode == "sliding" else None
    return Policy(
        lease=float(task.lease),
        send_timeout=float(task.send_timeout),
        window=None if window is None else window.total_seconds(),
        in_doubt=plain(task, "in_doubt"),
        allow_send=plain(task, "allow_send"),
        raise_on_mismatch=task.on_mismatch == "raise",
        opaque=opaque,
    )


def problems(task: Any) -> Iterator[tuple[str, str]]:
    """Yield (option, what is wrong and how to mend it) for every option of ``task`` that cannot be used."""
    yield from _wrong_choices(task)
    yield from _unusable_key(task)
    yield from _unusable_numbers(task)
    yield from window_problems(task)
    yield from _unusable_rule(task)
    if not isinstance(task.dedupe_on_publish, bool):
        yield "dedupe_on_publish", f"is {task.dedupe_on_publish!r}; it has to be True or False"
    for name in ("in_doubt_for", "dont_autoretry_for"):
        value = getattr(task, name)
        if not isinstance(value, tuple) or not all(
            isinstance(t, type) and issubclass(t, Exception) for t in value
        ):
            yield name, f"is {value!r}; it has to be a tuple of exception classes"


def _unusable_key(task: Any) -> Iterator[tuple[str, str]]:
    if task.key_function is not None and not callable(task.key_function):
        yield "key_function", f"is {task.key_function!r}; it has to be a function of the task's arguments"
    if not task.key_fields and task.key_function is None:
        yield (
            "key_fields",
            "is empty; name the parameters that identify the event, such as ('order_id', 'to')",
        )
    if isinstance(task.key_fields, str):
        yield "key_fields", f"is the string {task.key_fields!r}; make it a tuple: ({task.key_fields!r},)"
    elif task.key_function is None:
        yield from _unknown_parameters(task)
    if len(email_type(task)) > LONGEST_TYPE:
        yield "email_type", f"is longer than {LONGEST_TYPE} characters"


def _unusable_numbers(task: Any) -> Iterator[tuple[str, str]]:
    for name in ("lease", "send_timeout"):
        value = getattr(task, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            yield name, f"is {value!r}; it has to be a positive number of seconds"
    tries = task.deferred_retries
    if isinstance(tries, bool) or not isinstance(tries, int) or tries < 0:
        yield "deferred_retries", f"is {tries!r}; it has to be a number of tries, 0 for none"


def window_problems(task: Any) -> Iterator[tuple[str, str]]:
    """Yield (option, what is wrong and how to mend it) for what the window of ``task`` is declared by."""
    if task.window_mode not in WINDOW_MODES:
        yield "window_mode", f"is {task.window_mode!r}; it has to be {' or '.join(map(repr, WINDOW_MODES))}"
    if task.window is not None and (not isinstance(task.window, timedelta) or task.window <= timedelta(0)):
        yield "window", f"is {task.window!r}; it has to be a positive timedelta, or None for once"
    if task.window_mode != "fixed":
        return
    if task.window is None:
        yield "window", 'is not set; window_mode="fixed" needs the length of its buckets'
    if not task.event_time_field:
        yield "event_time_field", 'is not set; window_mode="fixed" takes the bucket of the event\'s own time'


def refuse_unusable_window(task: Any) -> None:
    """Raise `KeyFieldError` for the first of `window_problems`: a window of zero would send every duplicate.

    A worker starts whatever its checks have found, and messages may wait that have their keys already.
    """
    for option, text in window_problems(task):
        raise KeyFieldError(f"{task.name}: {option} {text}")


def _unusable_rule(task: Any) -> Iterator[tuple[str, str]]:
    if inspect.iscoroutinefunction(verifier := plain(task, "in_doubt")):
        yield "in_doubt", f"is {verifier!r}; it has to be a plain function verifier(entry) -> Verdict"
    rule = plain(task, "allow_send")
    if rule is None:
        return
    if not callable(rule) or inspect.iscoroutinefunction(rule):
        yield "allow_send", f"is {rule!r}; it has to be a plain function rule(entry, request) -> bool or None"
        return
    try:
        inspect.signature(rule).bind(None, None)
    except TypeError:
        yield "allow_send", f"is {rule!r}, which cannot be called with two arguments: the entry and the request"


def misspelt(task: Any, base: type) -> Iterator[tuple[str, str]]:
    """Yield (attribute, option that was probably meant) for what a task declares and nothing reads.

    ``base`` is the class that annotates the options, itself or by those it derives from.
    """
    options = [name for cls in base.__mro__ for name in vars(cls).get("__annotations__", ())]
    for name in vars(type(task)):
        close = difflib.get_close_matches(name, options, n=1, cutoff=0.8)
        if close and not hasattr(base, name) and name not in AUTORETRY:
            yield name, close[0]


def _wrong_choices(task: Any) -> Iterator[tuple[str, str]]:
    choices: dict[str, tuple[str, ...]] = {
        "on_conflict": ON_CONFLICT,
        "on_mismatch": ON_MISMATCH,
        "in_doubt": IN_DOUBT,
    }
    for name, allowed in choices.items():
        value = getattr(task, name)
        if value not in allowed and not (name == "in_doubt" and callable(value)):
            extra = ", or a verifier callable(entry) -> Verdict" if name == "in_doubt" else ""
            yield name, f"is {value!r}; it can be {', '.join(map(repr, allowed))}{extra}"


def _unknown_parameters(task: Any) -> Iterator[tuple[str, str]]:
    parameters = signature_of(task).parameters
    catch_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    declared = {name: getattr(task, name) or () for name in ("key_fields", "fingerprint_fields")}
    declared["event_time_field"] = (task.event_time_field,) if task.event_time_field else ()
    for option, paths in declared.items():
        for path in paths:
            first = path.split(".")[0]
            if first not in parameters and not catch_all:
                known = ", ".join(parameters) or "none"
                yield option, f"names {path!r}, which is not a parameter of run (it has: {known})"
