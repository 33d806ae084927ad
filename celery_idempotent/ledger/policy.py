"""Who asks for a key, and by which rules of the email type the ledger decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from .entry import Entry


class Verdict(Enum):
    """What a verifier found out about a hand-over whose reply was lost."""

    SENT = "sent"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"


Verifier = Callable[[Entry], Verdict]


@dataclass(frozen=True, slots=True)
class SendRequest:
    """The task that asks to send again, as the rule ``allow_send`` sees it."""

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
class Claimant:
    """Who asks for a key, and for what."""

    key: str
    email_type: str
    task_id: str
    worker: str = ""
    label: str = ""
    fingerprint: str = ""
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
