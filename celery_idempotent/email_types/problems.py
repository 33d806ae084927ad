"""Find the mistakes in the options of an email type, and say how to mend each."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterator

from .email_type import EmailType
from .options import AUTORETRY, IN_DOUBT, LONGEST_TYPE, ON_CONFLICT, ON_MISMATCH, Declaration


def problems(kind: EmailType) -> Iterator[tuple[str, str]]:
    """Yield (option, what is wrong and how to mend it) for every option of ``kind`` that cannot be used."""
    yield from _wrong_choices(kind)
    yield from _unusable_key(kind)
    yield from _unusable_numbers(kind)
    yield from kind.window_problems()
    yield from _unusable_rule(kind)
    if not isinstance(kind.dedupe_on_publish, bool):
        yield "dedupe_on_publish", f"is {kind.dedupe_on_publish!r}; it has to be True or False"
    for name in ("in_doubt_for", "dont_autoretry_for"):
        value = getattr(kind, name)
        if not isinstance(value, tuple) or not all(
            isinstance(t, type) and issubclass(t, Exception) for t in value
        ):
            yield name, f"is {value!r}; it has to be a tuple of exception classes"


def _unusable_key(kind: EmailType) -> Iterator[tuple[str, str]]:
    if kind.key_function is not None and not callable(kind.key_function):
        yield "key_function", f"is {kind.key_function!r}; it has to be a function of the task's arguments"
    if not kind.key_fields and kind.key_function is None:
        yield (
            "key_fields",
            "is empty; name the parameters that identify the event, such as ('order_id', 'to')",
        )
    if isinstance(kind.key_fields, str):
        yield "key_fields", f"is the string {kind.key_fields!r}; make it a tuple: ({kind.key_fields!r},)"
    elif kind.key_function is None:
        yield from _unknown_parameters(kind)
    if len(kind.name) > LONGEST_TYPE:
        yield "email_type", f"is longer than {LONGEST_TYPE} characters"


def _unusable_numbers(kind: EmailType) -> Iterator[tuple[str, str]]:
    for name in ("lease", "send_timeout"):
        value = getattr(kind, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            yield name, f"is {value!r}; it has to be a positive number of seconds"
    tries = kind.deferred_retries
    if isinstance(tries, bool) or not isinstance(tries, int) or tries < 0:
        yield "deferred_retries", f"is {tries!r}; it has to be a number of tries, 0 for none"


def _unusable_rule(kind: EmailType) -> Iterator[tuple[str, str]]:
    if inspect.iscoroutinefunction(verifier := kind.in_doubt):
        yield "in_doubt", f"is {verifier!r}; it has to be a plain function verifier(entry) -> Verdict"
    rule = kind.allow_send
    if rule is None:
        return
    if not callable(rule) or inspect.iscoroutinefunction(rule):
        yield "allow_send", f"is {rule!r}; it has to be a plain function rule(entry, request) -> bool or None"
        return
    try:
        inspect.signature(rule).bind(None, None)
    except TypeError:
        yield "allow_send", f"is {rule!r}, which cannot be called with two arguments: the entry and the request"


def misspelt(task: Declaration, base: type) -> Iterator[tuple[str, str]]:
    """Yield (attribute, option that was probably meant) for what ``task`` declares and nothing reads.

    ``base`` is the class that annotates the options, itself or by those it derives from.
    """
    own = [cls for cls in base.__mro__ if cls is not Declaration]  # which annotates what is no option
    options = [name for cls in own for name in vars(cls).get("__annotations__", ())]
    for name in vars(type(task)):
        close = difflib.get_close_matches(name, options, n=1, cutoff=0.8)
        if close and not hasattr(base, name) and name not in AUTORETRY:
            yield name, close[0]


def _wrong_choices(kind: EmailType) -> Iterator[tuple[str, str]]:
    choices: dict[str, tuple[str, ...]] = {
        "on_conflict": ON_CONFLICT,
        "on_mismatch": ON_MISMATCH,
        "in_doubt": IN_DOUBT,
    }
    for name, allowed in choices.items():
        value = getattr(kind, name)
        if value not in allowed and not (name == "in_doubt" and callable(value)):
            extra = ", or a verifier callable(entry) -> Verdict" if name == "in_doubt" else ""
            yield name, f"is {value!r}; it can be {', '.join(map(repr, allowed))}{extra}"


def _unknown_parameters(kind: EmailType) -> Iterator[tuple[str, str]]:
    parameters = kind.signature.parameters
    catch_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    declared = {name: getattr(kind, name) or () for name in ("key_fields", "fingerprint_fields")}
    declared["event_time_field"] = (kind.event_time_field,) if kind.event_time_field else ()
    for option, paths in declared.items():
        for path in paths:
            first = path.split(".")[0]
            if first not in parameters and not catch_all:
                known = ", ".join(parameters) or "none"
                yield option, f"names {path!r}, which is not a parameter of run (it has: {known})"
