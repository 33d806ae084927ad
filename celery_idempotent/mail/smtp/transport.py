"""Transport for SMTP (RFC 5321): serves a message's recipients in transactions on Django's own connection."""

from __future__ import annotations

import re
import smtplib
import time
from collections.abc import Sequence, Set
from typing import ClassVar

from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from ...ledger.held_claim import NOT_YET
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ..provider_keys import ProviderKey
from ..providers import Deduplication
from ..transport_protocol import HandOverObserver
from .connections import Connection
from .rendering import Letter
from .transaction import StaleConnection, Transaction

_RCPTMAX = re.compile(r"\bRCPTMAX=(\d+)", re.IGNORECASE)


class SMTPTransport:
    """Serves a message's recipients in as many transactions as the server's limits ask for."""

    longest_list: ClassVar[float] = 900.0
    """Seconds after which no further batch is begun: brokers give up a consumer that takes for ever."""

    def __init__(self, backend: DjangoSMTP, provider: Deduplication | None = None) -> None:
        self.backend = backend
        self.provider = provider if provider is not None and provider.in_message else None
        self.account = f"{backend.host}:{backend.port}:{backend.username}"

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Hand ``message`` over, one transaction after the other on one connection.

        A doubt ends the hand-over: recipients who were not offered yet wait until the doubt is settled. A
        server that takes too long ends it as well, but the recipients taken are offered again on their own.
        Raises errors from before a transaction: nothing was sent in it.
        """
        letter = Letter.render(self.backend, message, addresses, observer.name)
        addresses = _refuse_unreadable(letter, addresses, observer)
        if not addresses:
            return
        with Connection(self.backend, timeout) as connection:
            todo = _refuse_unservable(letter, connection.smtp, addresses, observer)
            self._serve(connection, letter, _rotate(todo, observer.not_asked()), observer, timeout)

    def _serve(
        self,
        connection: Connection,
        letter: Letter,
        todo: list[str],
        observer: HandOverObserver,
        timeout: float,
    ) -> None:
        most, end = _read_limit(connection.smtp), time.monotonic() + self.longest_list
        while todo:
            if not connection.usable:
                connection.renew()
            batch, rest = todo[:most], todo[most:] if most else []
            key = observer.key() if self.provider else None
            transaction = Transaction(connection, _add_key(letter, key), observer, timeout)
            try:
                again = transaction.run(batch)
            except StaleConnection:
                connection.renew()
                continue
            most = transaction.most or most
            if transaction.doubtful or (key is not None and key.is_repeated):
                return
            if time.monotonic() > end:
                _put_off(again + rest, observer)
                return
            if transaction.out_of_time:
                _put_off(rest, observer)
                rest, end = [], 0.0  # the next is the last
            todo = again + rest


def _rotate(addresses: Sequence[str], not_asked: Set[str]) -> list[str]:
    """Rotate the list so that recipients whom the last attempt did not reach come first."""
    waiting = [address in not_asked for address in addresses]
    start = next((n for n, waits in enumerate(waiting) if waits and not waiting[n - 1]), 0)
    return [*addresses[start:], *addresses[:start]]


def _put_off(addresses: Sequence[str], observer: HandOverObserver) -> None:
    """Record that time was up before ``addresses`` were offered the mail."""
    if addresses:
        reply = Reply(DeliveryStatus.DEFERRED, None, f"{NOT_YET}: out of time")
        observer.record(dict.fromkeys(addresses, reply))


def _add_key(letter: Letter, key: ProviderKey | None) -> Letter:
    """Return ``letter`` with the provider's header, or with the payload that was sent under the same key."""
    if key is None:
        return letter
    header = f"{key.provider.header}: {key.value}\r\n".encode("ascii")
    return letter.with_payload(key.frozen or header + letter.payload)


def _refuse_unreadable(letter: Letter, addresses: Sequence[str], observer: HandOverObserver) -> list[str]:
    """Record recipients whose address cannot be written into RCPT TO as refused, and return the others."""
    text = "5.1.3 not offered: no mailbox can be read from the address; correct it where it comes from"
    unreadable = [address for address in addresses if address not in letter.wire]
    if unreadable:
        observer.record(dict.fromkeys(unreadable, Reply(DeliveryStatus.REFUSED, 553, text)))
    return [address for address in addresses if address in letter.wire]


def _refuse_unservable(
    letter: Letter, smtp: smtplib.SMTP, addresses: Sequence[str], observer: HandOverObserver
) -> list[str]:
    """Record recipients whom the server cannot serve, by its reply to EHLO, as refused; return the others."""
    refused: dict[str, Reply] = {}
    limit = _parse_number(smtp.esmtp_features.get("size", ""))
    if limit and letter.size > limit:  # RFC 1870 §6.1; 0 is "no fixed limit"
        text = f"5.3.4 not offered: {letter.size} octets, and the server takes {limit}"
        refused = dict.fromkeys(addresses, Reply(DeliveryStatus.REFUSED, 552, text))
    elif not smtp.has_extn("smtputf8"):
        if not letter.sender.isascii():
            raise smtplib.SMTPNotSupportedError("the sender's address needs SMTPUTF8, which the server lacks")
        text = "5.6.7 not offered: it needs SMTPUTF8 (RFC 6531), which the server lacks"
        unwritable = [address for address in addresses if letter.needs_smtputf8(address)]
        refused = dict.fromkeys(unwritable, Reply(DeliveryStatus.REFUSED, 553, text))
    if refused:
        observer.record(refused)
    return [address for address in addresses if address not in refused]


def _read_limit(smtp: smtplib.SMTP) -> int | None:
    """Return the most recipients of one transaction, where the reply to EHLO names them (RFC 9422)."""
    limit = _RCPTMAX.search(smtp.esmtp_features.get("limits", ""))
    return _parse_number(limit.group(1)) or None if limit else None


def _parse_number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 19 else 0
