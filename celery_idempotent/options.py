"""What a task declares: its options, checked, and the key, fingerprint and label of one call."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MethodType
from typing import Any

from .conf import conf
from .core.addresses import is_address, mask_all, normalise, printable
from .core.errors import KeyFieldError
from .core.keys import bucket_for, digest, make_key
from .core.outcomes import Policy

ON_CONFLICT = ("retry", "skip", "raise")
ON_MISMATCH = ("warn", "raise", "ignore")
IN_DOUBT = ("hold", "resend")
WINDOW_MODES = ("sliding", "fixed")
LONGEST_TYPE = 200
AUTORETRY = ("autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max", "retry_jitter")
"""Options that Celery reads from a task without declaring them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What one call of a task is, to the ledger. Travels in the message's headers."""

    key: str
    fingerprint: str
    label: str


class CallKeys:
    """Computes `Identity` from the bound arguments of a task's ``run``."""

    def __init__(self, task: Any) -> None:
        self.task = task
        run = getattr(task, "_orig_run", task.run)
        self.signature = inspect.signature(run)

    def identify(self, args: Any, kwargs: Any) -> Identity:
        """Return key, fingerprint and label of the call. Raises `KeyFieldError`, naming task and field."""
        task = self.task
        bound = self._bind(args or (), kwargs or {})
        fields = self._fields(args or (), kwargs or {}, bound)
        name = email_type(task)
        if not 0 < len(name) <= LONGEST_TYPE:
            raise KeyFieldError(f"{task.name}: email_type has {len(name)} characters; 1 to {LONGEST_TYPE} fit")
        key = make_key(conf.namespace, name, fields, self._bucket(bound))
        return Identity(key, self._fingerprint(bound), label(fields))

    def _bind(self, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise KeyFieldError(f"{self.task.name}: the call does not fit the task: {error}") from None
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name))
        return arguments

    def _fields(self, args: Any, kwargs: Any, bound: Mapping[str, Any]) -> dict[str, Any]:
        task = self.task
        key_function = plain(task, "key_function")
        if key_function is not None:
            value = key_function(*args, **kwargs)
            if value is None or value == "":
                raise KeyFieldError(f"{task.name}: key_function returned {value!r}; it has to name the event")
            return {"key_function": _folded(value)}
        if not task.key_fields:
            raise KeyFieldError(
                f"{task.name}: declare key_fields=(…) or key_function, so that two events can be told apart"
            )
        return {path: self._key_field(path, bound) for path in task.key_fields}

    def _key_field(self, path: str, bound: Mapping[str, Any]) -> Any:
        value = _folded(self._lookup(path, bound))
        if value is None or value == "":
            raise KeyFieldError(
                f"{self.task.name}: key field {path!r} is {value!r}, which identifies nothing: all such calls "
                "would be one email. Pass its value, or correct key_fields"
            )
        return value

    def _lookup(self, path: str, bound: Mapping[str, Any]) -> Any:
        names = list(_parts(path))
        value: Any = bound
        for name in names:
            try:
                value = value[name] if isinstance(value, Mapping) else getattr(value, name)
            except (KeyError, AttributeError):
                raise KeyFieldError(
                    f"{self.task.name}: key field {path!r} is missing from the call: no {name!r} in "
                    f"{type(value).__name__}. Pass it, or correct key_fields"
                ) from None
        return value

    def _bucket(self, bound: Mapping[str, Any]) -> str | None:
        task = self.task
        if task.window is None or task.window_mode != "fixed":
            return None
        path = task.event_time_field
        if not path:
            raise KeyFieldError(f'{task.name}: window_mode="fixed" needs event_time_field')
        when = self._lookup(path, bound)
        if isinstance(when, str):
            try:
                when = datetime.fromisoformat(when)
            except ValueError:
                pass
        if not isinstance(when, datetime):
            raise KeyFieldError(f"{task.name}: event_time_field {path!r} has to be an aware datetime")
        return bucket_for(when, task.window)

    def _fingerprint(self, bound: Mapping[str, Any]) -> str:
        task = self.task
        if task.on_mismatch == "ignore":
            return ""
        if task.fingerprint_fields is not None:
            fields = {path: self._lookup(path, bound) for path in task.fingerprint_fields}
        else:
            fields = {name: value for name, value in bound.items() if name not in task.key_fields}
        try:
            return digest(fields)
        except KeyFieldError:
            return ""  # arguments of any type are allowed outside the key; they just cannot be compared


def plain(task: Any, option: str) -> Any:
    """Return the value of ``option``; a function as it was given, without ``self``.

    Celery makes options class attributes, so a function given as one would come back as a bound method.
    """
    value = getattr(task, option)
    return value.__func__ if isinstance(value, MethodType) and value.__self__ is task else value


def email_type(task: Any) -> str:
    """Return the namespace of the task's keys: its ``email_type``, by default its name."""
    return str(task.email_type or task.name)


def policy(task: Any, opaque: bool) -> Policy:
    """Return the ledger's rules for ``task``."""
    window = task.window if task.window_mode == "sliding" else None
    return Policy(
        lease=float(task.lease),
        send_timeout=float(task.send_timeout),
        window=None if window is None else window.total_seconds(),
        in_doubt=plain(task, "in_doubt"),
        raise_on_mismatch=task.on_mismatch == "raise",
        opaque=opaque,
    )


def problems(task: Any) -> Iterator[tuple[str, str]]:
    """Yield (option, what is wrong and how to mend it) for every option of ``task`` that cannot be used."""
    yield from _wrong_choices(task)
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
    for name in ("lease", "send_timeout"):
        value = getattr(task, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            yield name, f"is {value!r}; it has to be a positive number of seconds"
    yield from _unusable_window(task)
    if len(email_type(task)) > LONGEST_TYPE:
        yield "email_type", f"is longer than {LONGEST_TYPE} characters"
    if not isinstance(task.dedupe_on_publish, bool):
        yield "dedupe_on_publish", f"is {task.dedupe_on_publish!r}; it has to be True or False"
    for name in ("in_doubt_for", "dont_autoretry_for"):
        value = getattr(task, name)
        if not isinstance(value, tuple) or not all(
            isinstance(t, type) and issubclass(t, Exception) for t in value
        ):
            yield name, f"is {value!r}; it has to be a tuple of exception classes"


def _unusable_window(task: Any) -> Iterator[tuple[str, str]]:
    if task.window is not None and (not isinstance(task.window, timedelta) or task.window <= timedelta(0)):
        yield "window", f"is {task.window!r}; it has to be a positive timedelta, or None for once"
    if task.window_mode != "fixed":
        return
    if task.window is None:
        yield "window", 'is not set; window_mode="fixed" needs the length of its buckets'
    if not task.event_time_field:
        yield "event_time_field", 'is not set; window_mode="fixed" takes the bucket of the event\'s own time'


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
        "window_mode": WINDOW_MODES,
        "in_doubt": IN_DOUBT,
    }
    for name, allowed in choices.items():
        value = getattr(task, name)
        if value not in allowed and not (name == "in_doubt" and callable(value)):
            extra = ", or a verifier callable(entry) -> Verdict" if name == "in_doubt" else ""
            yield name, f"is {value!r}; it can be {', '.join(map(repr, allowed))}{extra}"


def _unknown_parameters(task: Any) -> Iterator[tuple[str, str]]:
    parameters = CallKeys(task).signature.parameters
    catch_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    declared = {name: getattr(task, name) or () for name in ("key_fields", "fingerprint_fields")}
    declared["event_time_field"] = (task.event_time_field,) if task.event_time_field else ()
    for option, paths in declared.items():
        for path in paths:
            first = next(_parts(path))
            if first not in parameters and not catch_all:
                known = ", ".join(parameters) or "none"
                yield option, f"names {path!r}, which is not a parameter of run (it has: {known})"


def _parts(path: str) -> Iterator[str]:
    return iter(path.split("."))


def _folded(value: Any) -> Any:
    """Return ``value`` with addresses in their one normal form, alone or in a list."""
    if isinstance(value, str) and is_address(value):
        return normalise(value)
    if isinstance(value, list | tuple):
        return [_folded(item) for item in value]
    return value


def label(fields: Mapping[str, Any]) -> str:
    """Return ``fields`` for people to read, addresses masked."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in fields.items())


def _shown(value: Any) -> str:
    return printable(mask_all(str(value)))
