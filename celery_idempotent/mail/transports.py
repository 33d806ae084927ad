"""What all ways of handing a message over have in common, and the one for backends that are one step."""

from __future__ import annotations

import copy
import smtplib
import socket
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from ..core.addresses import normalise
from ..core.entry import Moment
from ..core.outcomes import Reply
from ..core.status import DeliveryStatus
from .classify import kind, refusal, verdict
from .providers import Deduplication
from .rendering import writing

if TYPE_CHECKING:
    from .recognition import ProviderKey

_NOT_CONNECTED = (ConnectionRefusedError, socket.gaierror)


@dataclass(frozen=True, slots=True)
class HandOverId:
    """What the ledger calls the hand-over that comes next."""

    key: str
    generation: int
    attempt: int
    message_id: str
    begun_at: Moment | None = None
    """When the generation began."""


class Witness(Protocol):
    """What a transport tells about a hand-over, in this order, once for each transaction that it takes."""

    name: str
    """The task's, for errors."""
    released: bool
    """Set right before the step that cannot be called back."""

    def hand_over(self) -> HandOverId:
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
        self, message: EmailMessage, addresses: Sequence[str], witness: Witness, timeout: float
    ) -> None:
        """Offer ``message`` to ``addresses`` and tell ``witness`` about it; a lost reply is IN_DOUBT.

        Raises what went wrong before the write-ahead. ``timeout`` is in seconds, from the write-ahead on.
        """


class BackendTransport:
    """Any other backend: the whole of `send_messages` is the hand-over."""

    provider: Deduplication | None = None
    account = ""

    def __init__(self, backend: BaseEmailBackend) -> None:
        self.backend = backend

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], witness: Witness, timeout: float
    ) -> None:
        """Write ahead, send, and tell from what comes back. What cannot be told apart is in doubt."""
        message = addressed(message, addresses)
        with writing(message, witness.name):
            message.message()  # header errors come up here, before anything is written
        witness.write_ahead(addresses)
        witness.released = True
        witness.record(self._replies(message, addresses))

    def _replies(self, message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
        try:
            sent = self.backend.send_messages([message])
        except smtplib.SMTPRecipientsRefused as error:
            return {a: _refused(*error.recipients.get(a, (450, b"refused with others"))) for a in addresses}
        except smtplib.SMTPResponseException as error:
            return dict.fromkeys(addresses, verdict(error.smtp_code, error.smtp_error)[1])
        except _NOT_CONNECTED as error:
            return dict.fromkeys(addresses, Reply(DeliveryStatus.DEFERRED, None, f"not connected: {error}"))
        except Exception as error:
            reply = Reply(DeliveryStatus.IN_DOUBT, None, f"{type(error).__name__}: {error}")
            return dict.fromkeys(addresses, reply)
        if sent == 0:
            return dict.fromkeys(addresses, Reply(DeliveryStatus.DEFERRED, None, "the backend sent nothing"))
        return dict.fromkeys(addresses, Reply(DeliveryStatus.ACCEPTED))


def _refused(code: int, text: bytes) -> Reply:
    return refusal(kind(code, text, at_rcpt=True), code, text)


def addressed(message: EmailMessage, addresses: Sequence[str]) -> EmailMessage:
    """Return ``message`` for ``addresses`` alone, each mailbox once: such a backend goes by the headers.

    Where several spellings mean one mailbox, the first counts, in the order of To, Cc, Bcc.
    """
    left = {normalise(address) for address in addresses}
    reduced = copy.copy(message)
    for field in ("to", "cc", "bcc"):
        setattr(reduced, field, _taken(getattr(message, field), left))
    return message if reduced.recipients() == message.recipients() else reduced


def _taken(addresses: Sequence[str], left: set[str]) -> list[str]:
    """Return those of ``addresses`` that mean one of ``left``, and take it away from there.

    Django passes over those that are empty or None.
    """
    taken = []
    for address in filter(None, addresses):
        if (mailbox := normalise(address)) in left:
            left.remove(mailbox)
            taken.append(address)
    return taken
