"""Transport for any other email backend: its whole `send_messages` is one opaque hand-over."""

from __future__ import annotations

import copy
import smtplib
import socket
import time
from collections.abc import Sequence

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from ..ledger.addresses import normalise
from ..ledger.outcomes import Reply
from ..ledger.status import DeliveryStatus
from .providers import Deduplication
from .smtp.rendering import explain_unwritable
from .smtp.reply_codes import ServerReply
from .transport_protocol import HandOverObserver

_NOT_CONNECTED = (ConnectionRefusedError, socket.gaierror)


class BackendTransport:
    """Hands a message over by one call of a backend's `send_messages`."""

    provider: Deduplication | None = None
    account = ""

    def __init__(self, backend: BaseEmailBackend) -> None:
        self.backend = backend

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Write ahead, send, and record the outcome. An outcome that says nothing definite is a doubt."""
        message = restrict_recipients(message, addresses)
        with explain_unwritable(message, observer.name):
            message.message()  # header errors come up here, before anything is written
        begun = time.monotonic()
        observer.write_ahead(addresses)
        if time.monotonic() - begun > timeout:  # this process stood still: somebody else may have sent it since
            late = Reply(DeliveryStatus.DEFERRED, None, "not sent: its send deadline had passed")
            observer.record(dict.fromkeys(addresses, late))
            return
        observer.released = True
        observer.record(self._send(message, addresses))

    def _send(self, message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
        try:
            sent = self.backend.send_messages([message])
        except smtplib.SMTPRecipientsRefused as error:
            others = (450, b"refused with others")
            return {a: _read_refusal(*error.recipients.get(a, others)) for a in addresses}
        except smtplib.SMTPResponseException as error:
            answer = ServerReply.read(error.smtp_code, error.smtp_error)
            return dict.fromkeys(addresses, answer.to_ledger(answer.classify().status))
        except _NOT_CONNECTED as error:
            return dict.fromkeys(addresses, Reply(DeliveryStatus.DEFERRED, None, f"not connected: {error}"))
        except Exception as error:
            reply = Reply(DeliveryStatus.IN_DOUBT, None, f"{type(error).__name__}: {error}")
            return dict.fromkeys(addresses, reply)
        if sent == 0:
            return dict.fromkeys(addresses, Reply(DeliveryStatus.DEFERRED, None, "the backend sent nothing"))
        return dict.fromkeys(addresses, Reply(DeliveryStatus.ACCEPTED))


def _read_refusal(code: int, text: bytes) -> Reply:
    answer = ServerReply.read(code, text)
    return answer.to_ledger(answer.classify(at_rcpt=True).status_before_payload)


def restrict_recipients(message: EmailMessage, addresses: Sequence[str]) -> EmailMessage:
    """Return ``message`` for ``addresses`` alone, each mailbox once: such a backend sends to its headers.

    Where several spellings mean one mailbox, the first counts, in the order of To, Cc, Bcc.
    """
    wanted = {normalise(address) for address in addresses}
    reduced = copy.copy(message)
    for field in ("to", "cc", "bcc"):
        setattr(reduced, field, _take_wanted(getattr(message, field), wanted))
    return message if reduced.recipients() == message.recipients() else reduced


def _take_wanted(addresses: Sequence[str], wanted: set[str]) -> list[str]:
    """Return the addresses of mailboxes in ``wanted``, and remove these mailboxes from ``wanted``.

    Django passes over addresses that are empty or None.
    """
    taken = []
    for address in filter(None, addresses):
        if (mailbox := normalise(address)) in wanted:
            wanted.remove(mailbox)
            taken.append(address)
    return taken
