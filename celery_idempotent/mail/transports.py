"""How a message is handed over: the SMTP conversation step by step, or another backend as one step."""

from __future__ import annotations

import copy
import smtplib
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from ..core.addresses import mask_all, normalise, printable
from ..core.outcomes import Reply
from ..core.status import DeliveryStatus

_NOT_CONNECTED = (ConnectionRefusedError, socket.gaierror)


class Witness(Protocol):
    """What a transport tells about a hand-over, in this order."""

    released: bool
    """Set right before the step that cannot be called back."""

    def write_ahead(self, served: Sequence[str]) -> None:
        """Called right before the payload is released; what it raises stops the hand-over."""

    def record(self, replies: Mapping[str, Reply]) -> None:
        """Called as soon as the outcome is known, before anything else is done."""


class Transport(Protocol):
    """Hands one message over."""

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], witness: Witness, timeout: float
    ) -> None:
        """Offer ``message`` to ``addresses`` and tell ``witness`` about it; a lost reply is IN_DOUBT.

        Raises what went wrong before the write-ahead. ``timeout`` is in seconds, from the write-ahead on.
        """


def transport_for(backend: BaseEmailBackend) -> Transport:
    """Return the SMTP conversation for Django's SMTP backend, and one opaque step for any other."""
    kind = type(backend)
    if isinstance(backend, DjangoSMTP) and all(
        getattr(kind, name) is getattr(DjangoSMTP, name) for name in ("send_messages", "_send")
    ):
        return SMTPTransport(backend)
    return BackendTransport(backend)


def classify(code: int, text: bytes | str) -> Reply:
    """Return what a reply code says (RFC 5321 §4.2.1). A code outside 2xx, 4xx and 5xx says nothing."""
    detail = printable(text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text))
    status = {2: DeliveryStatus.ACCEPTED, 4: DeliveryStatus.DEFERRED, 5: DeliveryStatus.REFUSED}.get(
        code // 100, DeliveryStatus.IN_DOUBT
    )
    return Reply(status, code, " ".join(detail.split()))


class SMTPTransport:
    """RFC 5321 on Django's own connection, with its TLS and AUTH settings."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], witness: Witness, timeout: float
    ) -> None:
        """Converse up to 354, write ahead, then release the payload and wait for the reply."""
        sender, wire, payload = _render(self.backend, message, addresses)
        try:
            opened = self.backend.open()
        except BaseException:
            self._close()  # Django keeps a connection that got no further than its greeting
            raise
        try:
            self._converse(sender, wire, payload, witness, timeout)
        except BaseException:
            self._abort()  # never leave half a transaction on a connection that is used again
            raise
        finally:
            if opened:
                self._close()

    def _converse(
        self, sender: str, wire: dict[str, str], payload: bytes, witness: Witness, timeout: float
    ) -> None:
        smtp = self.backend.connection
        if self.backend.timeout is None and smtp.sock is not None:
            smtp.sock.settimeout(timeout)
        self._mail(smtp, sender, payload)
        replies = self._rcpt(smtp, wire)
        served = [address for address in wire if address not in replies]
        if not served:
            witness.record(replies)
            smtp._rset() if smtp.sock else None
            return
        smtp.putcmd("data")
        code, text = smtp.getreply()
        if code != 354:
            refusal = classify(code, text)
            if refusal.status in (DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT):
                raise smtplib.SMTPDataError(code, text)  # no payload has left: definite, whatever it says
            witness.record(replies | dict.fromkeys(served, refusal))
            self._abort() if code == 421 else smtp._rset()
            return
        end = time.monotonic() + timeout  # before the write-ahead, as the store's deadline starts in it
        witness.write_ahead(served)
        reply = self._release(smtp, payload, witness, end)
        witness.record(replies | dict.fromkeys(served, reply))
        if reply.status is not DeliveryStatus.ACCEPTED:
            self._abort()
        elif self.backend.timeout is not None and smtp.sock is not None:
            smtp.sock.settimeout(self.backend.timeout)

    def _mail(self, smtp: smtplib.SMTP, sender: str, payload: bytes) -> None:
        smtp.ehlo_or_helo_if_needed()
        options = [f"size={len(payload)}"] if smtp.does_esmtp and smtp.has_extn("size") else []
        code, text = smtp.mail(sender, options)
        if code != 250:
            self._abort() if code == 421 else smtp._rset()  # type: ignore[attr-defined]
            raise smtplib.SMTPSenderRefused(code, text, sender)

    def _rcpt(self, smtp: smtplib.SMTP, wire: dict[str, str]) -> dict[str, Reply]:
        """Return the replies of the recipients that were not taken."""
        replies = {}
        for address, on_the_wire in wire.items():
            code, text = smtp.rcpt(on_the_wire)
            if code == 421:
                self._abort()
                raise smtplib.SMTPServerDisconnected(f"421 at RCPT: {mask_all(classify(code, text).detail)}")
            if code not in (250, 251):
                reply = classify(code, text)
                definite = reply.status in (DeliveryStatus.DEFERRED, DeliveryStatus.REFUSED)
                replies[address] = reply if definite else Reply(DeliveryStatus.DEFERRED, code, reply.detail)
        return replies

    def _release(self, smtp: smtplib.SMTP, payload: bytes, witness: Witness, end: float) -> Reply:
        """Send the payload and its final dot, and return the one reply that decides.

        Until the dot is handed to the kernel the server must not take the mail (RFC 5321 §4.1.1.4), so a
        failure before it is definite; from then on, silence is doubt (RFC 1047).
        """
        sock = smtp.sock
        assert sock is not None
        try:
            sock.settimeout(_left(end))
            sock.sendall(payload)
            sock.settimeout(_left(end))
            witness.released = True
            sock.sendall(b".\r\n")
            return classify(*smtp.getreply())
        except (OSError, smtplib.SMTPException, ValueError) as error:
            where = "after" if witness.released else "before"
            status = DeliveryStatus.IN_DOUBT if witness.released else DeliveryStatus.DEFERRED
            return Reply(status, None, f"{where} the final dot: {type(error).__name__}: {error}")

    def _abort(self) -> None:
        """Drop the connection without another word: an unfinished payload has to stay unfinished."""
        smtp = self.backend.connection
        if smtp is not None:
            smtp.close()
            self.backend.connection = None

    def _close(self) -> None:
        try:
            if self.backend.connection is not None and self.backend.connection.sock is None:
                self.backend.connection = None
            self.backend.close()
        except (OSError, smtplib.SMTPException):
            self.backend.connection = None  # the mail is settled; a failing QUIT changes nothing


def _left(end: float) -> float:
    """Return the seconds until ``end``. Raises `TimeoutError` when others may have acted on the deadline."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the send deadline passed")
    return left


def _render(backend: Any, message: EmailMessage, addresses: Sequence[str]) -> tuple[str, dict[str, str], bytes]:
    """Return sender, addresses as they go on the wire, and the payload dot-stuffed without its final dot.

    Raises `ValueError` for headers and addresses that cannot be sent.
    """
    try:
        return _rendered(backend, message, addresses)
    except ValueError as error:
        raise type(error)(mask_all(str(error))) from None  # Django quotes addresses; results are stored


def _rendered(
    backend: Any, message: EmailMessage, addresses: Sequence[str]
) -> tuple[str, dict[str, str], bytes]:
    if hasattr(backend, "prep_address"):  # Django 6
        prepare = backend.prep_address
        data = message.message(policy=_smtp_policy()).as_bytes()
    else:
        from django.conf import settings
        from django.core.mail.message import sanitize_address

        encoding = message.encoding or settings.DEFAULT_CHARSET

        def prepare(address: str) -> str:
            return str(sanitize_address(address, encoding))

        data = message.message().as_bytes(linesep="\r\n")  # type: ignore[call-arg]
    payload = smtplib._quote_periods(data)  # type: ignore[attr-defined]
    if not payload.endswith(b"\r\n"):
        payload += b"\r\n"
    return prepare(message.from_email), {address: prepare(address) for address in addresses}, payload


def _smtp_policy() -> Any:
    import email.policy

    return email.policy.SMTP


class BackendTransport:
    """Any other backend: the whole of `send_messages` is the hand-over."""

    def __init__(self, backend: BaseEmailBackend) -> None:
        self.backend = backend

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], witness: Witness, timeout: float
    ) -> None:
        """Write ahead, send, and tell from what comes back. What cannot be told apart is in doubt."""
        message = _addressed(message, addresses)
        message.message()  # header errors come up here, before anything is written
        witness.write_ahead(addresses)
        witness.released = True
        witness.record(self._replies(message, addresses))

    def _replies(self, message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
        try:
            sent = self.backend.send_messages([message])
        except smtplib.SMTPRecipientsRefused as error:
            return {
                address: classify(*error.recipients.get(address, (450, b"refused with others")))
                for address in addresses
            }
        except smtplib.SMTPResponseException as error:
            return dict.fromkeys(addresses, classify(error.smtp_code, error.smtp_error))
        except _NOT_CONNECTED as error:
            return dict.fromkeys(addresses, Reply(DeliveryStatus.DEFERRED, None, f"not connected: {error}"))
        except Exception as error:
            reply = Reply(DeliveryStatus.IN_DOUBT, None, f"{type(error).__name__}: {error}")
            return dict.fromkeys(addresses, reply)
        if sent == 0:
            return dict.fromkeys(addresses, Reply(DeliveryStatus.DEFERRED, None, "the backend sent nothing"))
        return dict.fromkeys(addresses, Reply(DeliveryStatus.ACCEPTED))


def _addressed(message: EmailMessage, addresses: Sequence[str]) -> EmailMessage:
    """Return ``message`` for ``addresses`` alone: such a backend takes recipients from the headers."""
    served = {normalise(address) for address in addresses}
    if all(normalise(address) in served for address in message.recipients()):
        return message
    reduced = copy.copy(message)
    for field in ("to", "cc", "bcc"):
        setattr(reduced, field, [a for a in getattr(message, field) if normalise(a) in served])
    return reduced
