"""Protocols of a transport, which hands a message over, and of the observer that hears about each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from django.core.mail import EmailMessage

from ..ledger.entry import Moment
from ..ledger.outcomes import Reply
from .provider_keys import ProviderKey
from .providers import Deduplication


@dataclass(frozen=True, slots=True)
class HandOverId:
    """The ledger's name for one hand-over."""

    key: str
    generation: int
    attempt: int
    message_id: str
    begun_at: Moment | None = None
    """Begin of the generation."""


class HandOverObserver(Protocol):
    """Hears about a hand-over. A transport makes the calls in this order, once for each of its transactions."""

    name: str
    """Name of the task, for errors."""
    released: bool
    """Set by the transport right before the step that cannot be called back."""

    def next_attempt_id(self) -> HandOverId:
        """Return the name of the hand-over that the next `write_ahead` begins."""

    def not_asked(self) -> Set[str]:
        """Return the addresses that the last attempt did not reach: they come first in this one."""

    def key(self) -> ProviderKey | None:
        """Return the provider key to send along. A transport with a provider asks once for each transaction."""

    def write_ahead(self, served: Sequence[str], content: bytes = b"") -> None:
        """Write the hand-over to ``served`` into the ledger, right before the payload is released.

        An error stops the hand-over. A provider compares ``content`` with a second offer under the same key.
        """

    def record(self, replies: Mapping[str, Reply]) -> None:
        """Write outcomes into the ledger as soon as they are known, before anything else is done."""


class Transport(Protocol):
    """Hands one message over."""

    provider: Deduplication | None
    """The provider's promise about idempotency keys, if there is one."""
    account: str
    """Tells the provider's accounts apart; the ledger keeps a hash of it."""

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Offer ``message`` to ``addresses`` and report to ``observer``; a lost reply is IN_DOUBT.

        Raises errors from before the write-ahead. ``timeout`` is in seconds, from the write-ahead on.
        """
