"""What a transport has to do, and what it tells about a hand-over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from django.core.mail import EmailMessage

from ..ledger.entry import Moment
from ..ledger.outcomes import Reply
from .providers import Deduplication, ProviderKey


@dataclass(frozen=True, slots=True)
class HandOverId:
    """What the ledger calls the hand-over that comes next."""

    key: str
    generation: int
    attempt: int
    message_id: str
    begun_at: Moment | None = None
    """When the generation began."""


class HandOverObserver(Protocol):
    """What a transport tells about a hand-over, in this order, once for each transaction that it takes."""

    name: str
    """The task's, for errors."""
    released: bool
    """Set right before the step that cannot be called back."""

    def next_attempt_id(self) -> HandOverId:
        """Return the name of the hand-over that `write_ahead` begins."""

    def not_asked(self) -> Set[str]:
        """Return the addresses that the last try did not get to: they have to come first in this one."""

    def key(self) -> ProviderKey | None:
        """Called once for each transaction, by a transport with a provider: the key that has to go along."""

    def write_ahead(self, served: Sequence[str], content: bytes = b"") -> None:
        """Called right before the payload is released; what it raises stops the hand-over.

        ``content`` is what a provider would compare if it came again under the same key.
        """

    def record(self, replies: Mapping[str, Reply]) -> None:
        """Called as soon as the outcome is known for some addresses, before anything else is done."""


class Transport(Protocol):
    """Hands one message over."""

    provider: Deduplication | None
    """What the provider promises about idempotency keys, if anything."""
    account: str
    """Tells the provider's accounts apart; not stored as it is."""

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Offer ``message`` to ``addresses`` and tell ``observer`` about it; a lost reply is IN_DOUBT.

        Raises what went wrong before the write-ahead. ``timeout`` is in seconds, from the write-ahead on.
        """
