"""One email type as its task declares it: computed once per task, and again when an option has changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import MethodType
from weakref import WeakKeyDictionary

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
_known: WeakKeyDictionary[Declaration, tuple[tuple[object, ...], EmailType]] = WeakKeyDictionary()


def email_type_of(task: Declaration) -> EmailType:
    """Return what ``task`` declares: the same object as long as its options are the same."""
    declared = (task.name, task.email_type, *(getattr(task, name) for name in _DECLARED))
    known = _known.get(task)
    if known is None or known[0] != declared:
        known = _known[task] = (declared, _new_email_type(task))
    return known[1]


def _new_email_type(task: Declaration) -> EmailType:
    whole = inspect.signature(getattr(task, "_orig_run", task.run))
    own = list(whole.parameters.values())[task.filled_in :]
    values = {name: _plain(task, name) for name in _DECLARED}
    name = str(task.email_type or task.name)
    return EmailType(name, task.name, whole.replace(parameters=own), **values)  # type: ignore[arg-type]


def _plain(task: Declaration, option: str) -> object:
    """Return the value of ``option``; a function as it was given, without ``self``.

    Celery makes options class attributes, so a function given as one would come back as a bound method.
    """
    value = getattr(task, option)
    return value.__func__ if isinstance(value, MethodType) and value.__self__ is task else value
