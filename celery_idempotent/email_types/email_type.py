"""One email type as its task declares it: computed once per task, and again when an option has changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from operator import is_
from types import MethodType
from typing import cast

from ..exceptions import KeyFieldError
from ..ledger.policy import Policy, SendRule, Verifier
from .options import WINDOW_MODES, Declaration


@dataclass(frozen=True)
class EmailType:
    """What a task or function declares, as plain values. Durations of options are seconds."""

    name: str
    """The namespace of its keys: the option ``email_type``, by default the task's name."""
    task_name: str
    signature: inspect.Signature
    """The body's, without the parameters that its queue fills in."""
    key_fields: Sequence[str]
    key_function: Callable[..., object] | None
    window: timedelta | None
    window_mode: str
    event_time_field: str | None
    allow_send: SendRule | None
    lease: float
    send_timeout: float
    in_doubt: str | Verifier
    on_conflict: str
    on_mismatch: str
    fingerprint_fields: Sequence[str] | None
    deferred_retries: int
    in_doubt_for: tuple[type[Exception], ...]
    dedupe_on_publish: bool
    filled_in: int
    dont_autoretry_for: tuple[type[Exception], ...]
    _policies: dict[bool, Policy] = field(default_factory=dict, repr=False, compare=False)

    def policy(self, opaque: bool) -> Policy:
        """Return the ledger's rules. Raises `KeyFieldError` where the window is none."""
        known = self._policies.get(opaque)
        if known is None:
            known = self._policies[opaque] = self._new_policy(opaque)
        return known

    def _new_policy(self, opaque: bool) -> Policy:
        self.refuse_unusable_window()
        window = self.window if self.window_mode == "sliding" else None
        return Policy(
            lease=float(self.lease),
            send_timeout=float(self.send_timeout),
            window=None if window is None else window.total_seconds(),
            in_doubt=self.in_doubt,
            allow_send=self.allow_send,
            raise_on_mismatch=self.on_mismatch == "raise",
            opaque=opaque,
        )

    def refuse_unusable_window(self) -> None:
        """Raise `KeyFieldError` for a window that is none: one of zero would send every duplicate.

        A worker starts whatever its checks have found, and messages may wait that have their keys already.
        """
        for option, text in self.window_problems():
            raise KeyFieldError(f"{self.task_name}: {option} {text}")

    def window_problems(self) -> Iterator[tuple[str, str]]:
        """Yield (option, what is wrong and how to mend it) for what the window is declared by."""
        mode, window = self.window_mode, self.window
        if mode not in WINDOW_MODES:
            yield "window_mode", f"is {mode!r}; it has to be {' or '.join(map(repr, WINDOW_MODES))}"
        if window is not None and (not isinstance(window, timedelta) or window <= timedelta(0)):
            yield "window", f"is {window!r}; it has to be a positive timedelta, or None for once"
        if mode != "fixed":
            return
        if window is None:
            yield "window", 'is not set; window_mode="fixed" needs the length of its buckets'
        if not self.event_time_field:
            yield (
                "event_time_field",
                'is not set; window_mode="fixed" takes the bucket of the event\'s own time',
            )


_DECLARED = tuple(
    one.name for one in fields(EmailType) if one.name not in ("name", "task_name", "signature", "_policies")
)
_CACHE = "_celery_idempotent_email_type"
"""The attribute of a task that keeps its `EmailType`, and the values from which that was made."""


def email_type_of(task: Declaration) -> EmailType:
    """Return what ``task`` declares: the same object as long as its body and its options are the same objects.

    A test may put a mock in place of the body, and 0 is no False.
    """
    values = tuple(_plain(task, getattr(task, name)) for name in _DECLARED)
    declared = (task.name, task.email_type, _plain(task, _body_of(task)), *values)
    known = vars(task).get(_CACHE)
    if known is None or not all(map(is_, known[0], declared)):
        known = vars(task)[_CACHE] = (declared, _new_email_type(task, values))
    return cast(EmailType, known[1])


def name_of(task: Declaration) -> str:
    """Return the name of the email type of ``task``, also of a task that is mistaken in its options."""
    return str(task.email_type or task.name)


def _new_email_type(task: Declaration, values: Sequence[object]) -> EmailType:
    whole = inspect.signature(_body_of(task))
    own = list(whole.parameters.values())[task.filled_in :]
    options = dict(zip(_DECLARED, values, strict=True))
    return EmailType(name_of(task), task.name, whole.replace(parameters=own), **options)  # type: ignore[arg-type]


def _body_of(task: Declaration) -> Callable[..., object]:
    return cast(Callable[..., object], getattr(task, "_orig_run", task.run))  # where Celery retries by itself


def _plain(task: Declaration, value: object) -> object:
    """Return ``value``, of an attribute of ``task``; a function as it was given, without ``self``.

    Celery makes options class attributes, so a function given as one would come back as a bound method.
    """
    return value.__func__ if isinstance(value, MethodType) and value.__self__ is task else value
