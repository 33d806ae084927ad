"""What all ways of handing a message over have in common, and the one for backends that are one step."""

from __future__ import annotations

import copy
import smtplib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from ..ledger.addresses import normalise
from ..ledger.outcomes import Reply
from ..ledger.status import DeliveryStatus
from .providers import Deduplication
from .smtp.rendering import writing
from .smtp.reply_codes import kind, read_reply, refusal
from .transport_protocol import HandOverObserver

if TYPE_CHECKING:
    pass

_NOT_CONNECTED = (ConnectionRefusedError, socket.gaierror)


class BackendTransport:
    """Any other backend: the whole of `send_messages` is the hand-over."""

    provider: Deduplication | None = None
    account = ""

    def __init__(self, backend: BaseEmailBackend) -> None:
        self.backend = backend

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Write ahead, send, and tell from what comes back. What cannot be told apart is in doubt."""
        message = addressed(message, addresses)
        with writing(message, observer.name):
            message.message()  # header errors come up here, before anything is written
        observer.write_ahead(addresses)
        observer.released = True
        observer.record(self._replies(message, addresses))

    def _replies(self, message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
        try:
            sent = self.backend.send_messages([message])
        except smtplib.SMTPRecipientsRefused as error:
            return {a: _refused(*error.recipients.get(a, (450, b"refused with others"))) for a in addresses}
        except smtplib.SMTPResponseException as error:
            return dict.fromkeys(addresses, read_reply(error.smtp_code, error.smtp_error)[1])
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
