"""The words of the ledger: who asks, by which rules, and what a claim or a hand-over comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from .entry import Entry, Recipient
from .status import DeliveryStatus


class Verdict(Enum):
    """What a verifier found out about a hand-over whose reply was lost."""

    SENT = "sent"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"


Target = tuple[str, Recipient]
"""One recipient of one message: the message's part, and who."""

Verifier = Callable[[Entry], Verdict]


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Who asks to send again, as a rule for that sees it."""

    task_id: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    """The call's own arguments."""
    now: datetime
    """The store's clock: compare ``entry.sent_at`` with this."""


SendRule = Callable[[Entry, SendRequest], bool | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one email type. Durations are seconds."""

    lease: float = 60.0
    send_timeout: float = 60.0
    window: float | None = None
    """A new send is allowed this long after the last acceptance or a cancellation (sliding); None: never."""
    in_doubt: str | Verifier = "hold"
    allow_send: SendRule | None = None
    """Asked about a SENT or FAILED entry: True opens a new generation."""
    raise_on_mismatch: bool = False
    opaque: bool = False
    """The body sends by means that the ledger cannot see: the claim is the write-ahead."""

    @property
    def sends_again(self) -> bool:
        """Whether a key may be sent more than once, so that the ledger has to know who took part."""
        return self.window is not None or self.allow_send is not None


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a key, and for what."""

    key: str
    email_type: str
    task_id: str
    worker: str = ""
    label: str = ""
    fingerprint: str = ""
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Acquired:
    """The asker holds the claim: it may go on."""

    entry: Entry
    mismatch: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Done before (or cancelled): succeed with the entry's recorded result."""

    entry: Entry
    mismatch: bool = False
    settled: bool = False
    """True if it was this claim that found out, by a verifier."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else is at it: ask again after ``retry_after`` seconds."""

    entry: Entry
    retry_after: float


@dataclass(frozen=True, slots=True)
class Held:
    """A hand-over's outcome is unknown and the rules say to wait for a decision."""

    entry: Entry
    found: bool = False
    """True if it was this claim that found the deadline passed."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key exists with other content, and the rules say to refuse that."""

    entry: Entry


Outcome = Acquired | Duplicate | Busy | Held | Mismatch


@dataclass(frozen=True, slots=True)
class Reply:
    """How the hand-over ended for one recipient."""

    status: DeliveryStatus
    code: int | None = None
    detail: str = ""
