"""The options that a task or function may declare, with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import ClassVar, Literal, TypedDict, get_args

from ..exceptions import (
    ClaimLost,
    DeliveryInDoubt,
    EntryUnreadable,
    LedgerUnavailable,
    PayloadMismatch,
    RecipientsRefused,
    UnsafeTransaction,
)
from ..ledger.policy import SendRule, Verifier

_OnConflict = Literal["retry", "skip", "raise"]
_OnMismatch = Literal["warn", "raise", "ignore"]
_InDoubt = Literal["hold", "resend"]
_WindowMode = Literal["sliding", "fixed"]
ON_CONFLICT = get_args(_OnConflict)
ON_MISMATCH = get_args(_OnMismatch)
IN_DOUBT = get_args(_InDoubt)
WINDOW_MODES = get_args(_WindowMode)
LONGEST_TYPE = 200
Args = Sequence[object] | None
Kwargs = Mapping[str, object] | None
"""Arguments of a call, as queues pass them on: None for none."""
AUTORETRY = ("autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max", "retry_jitter")
"""Options that Celery reads from a task without declaring them; `Options.dont_autoretry_for` is another."""


class Options:
    """What can be declared of an email type, with its defaults: attributes of a task or of a function."""

    key_fields: ClassVar[tuple[str, ...]] = ()
    """Parameters of ``run`` that identify the event; dotted paths reach into mappings and attributes."""
    key_function: ClassVar[Callable[..., object] | None] = None
    """Instead of ``key_fields``: called with the task's arguments, returns what identifies the event."""
    email_type: ClassVar[str | None] = None
    """Namespace of the keys. Default: the task's name; set it so that renaming the task keeps its keys."""
    window: ClassVar[timedelta | None] = None
    """A new send is allowed this long after the last acceptance. None: once, while the ledger remembers."""
    window_mode: ClassVar[_WindowMode] = "sliding"
    """``"sliding"``, or ``"fixed"``: buckets of the event's own time, see ``event_time_field``."""
    event_time_field: ClassVar[str | None] = None
    """Parameter that holds the event's time (an aware datetime, or ISO 8601), for fixed windows."""
    allow_send: ClassVar[SendRule | None] = None
    """A rule for sending a key again, ``rule(entry, request)``: True starts a new generation."""
    lease: ClassVar[float] = 60.0
    """Seconds after which another task may take over a claim that shows no sign of life."""
    send_timeout: ClassVar[float] = 60.0
    """Seconds a hand-over may take; for opaque tasks, the whole body."""
    in_doubt: ClassVar[_InDoubt | Verifier] = "hold"
    """After a lost reply: ``"hold"``, ``"resend"``, or a verifier ``callable(entry) -> Verdict``."""
    on_conflict: ClassVar[_OnConflict] = "retry"
    """While another task works on the key: ``"retry"`` (spends no retries), ``"skip"`` or ``"raise"``."""
    on_mismatch: ClassVar[_OnMismatch] = "warn"
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


class FunctionOptions(TypedDict, total=False):
    """The options that a function can declare. How jobs are published and retried is their queue's business."""

    key_fields: tuple[str, ...]
    key_function: Callable[..., object] | None
    email_type: str | None
    window: timedelta | None
    window_mode: _WindowMode
    event_time_field: str | None
    allow_send: SendRule | None
    lease: float
    send_timeout: float
    in_doubt: _InDoubt | Verifier
    on_conflict: _OnConflict
    on_mismatch: _OnMismatch
    fingerprint_fields: tuple[str, ...] | None
    deferred_retries: int
    in_doubt_for: tuple[type[Exception], ...]


class Declaration(Options):
    """A task or function that declares an email type."""

    name: str
    """The task's name."""
    run: Callable[..., object]
    """The body."""
