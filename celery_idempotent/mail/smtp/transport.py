"""The SMTP conversation (RFC 5321) on Django's own connection, with the ledger informed in between."""

from __future__ import annotations

import re
import smtplib
import time
from collections.abc import Sequence, Set
from typing import Any

from django.core.mail import EmailMessage

from ...ledger.held_claim import NOT_YET
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ..providers import Deduplication, ProviderKey
from ..transport_protocol import HandOverObserver
from .connections import Connection, connected
from .rendering import Letter, render
from .transaction import Stale, Transaction

LONGEST_LIST = 900.0
"""Seconds after which no further part of a list is begun: brokers give up a consumer that takes for ever."""
_RCPTMAX = re.compile(r"\bRCPTMAX=(\d+)", re.IGNORECASE)


class SMTPTransport:
    """Serves a message's recipients in as many transactions as the server's limits ask for."""

    def __init__(self, backend: Any, provider: Deduplication | None = None) -> None:
        self.backend = backend
        self.provider = provider if provider is not None and provider.in_message else None
        self.account = f"{backend.host}:{backend.port}:{backend.username}"

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Hand ``message`` over, one transaction after the other on one connection.

        A doubt ends it: the recipients that have not been offered yet wait until it is settled. So does a
        server that takes too long, but those it had taken before are offered once more, without the others.
        Raises what went wrong before a transaction began: nothing of it was sent.
        """
        letter = render(self.backend, message, addresses, observer.name)
        addresses = _readable(letter, addresses, observer)
        if not addresses:
            return
        with connected(self.backend, timeout) as connection:
            todo = _servable(letter, connection.smtp, addresses, observer)
            self._serve(connection, letter, _in_turn(todo, observer.not_asked()), observer, timeout)

    def _serve(
        self,
        connection: Connection,
        letter: Letter,
        todo: list[str],
        observer: HandOverObserver,
        timeout: float,
    ) -> None:
        most, end = _most(connection.smtp), time.monotonic() + LONGEST_LIST
        while todo:
            if not connection.usable:
                connection.renew()
            batch, rest = todo[:most], todo[most:] if most else []
            key = observer.key() if self.provider else None
            transaction = Transaction(connection, _with_key(letter, key), observer, timeout)
            try:
                again = transaction.run(batch)
            except Stale:
                connection.renew()
                continue
            most = transaction.most or most
            if transaction.doubtful or (key is not None and key.again):
                return
            if time.monotonic() > end:
                _put_off(again + rest, observer)
                return
            if transaction.out_of_time:
                _put_off(rest, observer)
                rest, end = [], 0.0  # the next is the last
            todo = again + rest


def _in_turn(addresses: Sequence[str], first: Set[str]) -> list[str]:
    """Return ``addresses`` from after those on who were asked last, so that all come to their turn."""
    waiting = [address in first for address in addresses]
    start = next((n for n, waits in enumerate(waiting) if waits and not waiting[n - 1]), 0)
    return [*addresses[start:], *addresses[:start]]


def _put_off(addresses: Sequence[str], observer: HandOverObserver) -> None:
    """Record that time was up before ``addresses`` were offered the mail."""
    if addresses:
        reply = Reply(DeliveryStatus.DEFERRED, None, f"{NOT_YET}: out of time")
        observer.record(dict.fromkeys(addresses, reply))


def _with_key(letter: Letter, key: ProviderKey | None) -> Letter:
    """Return ``letter`` with the provider's header, or what was sent under the same key before."""
    if key is None:
        return letter
    header = f"{key.provider.header}: {key.value}\r\n".encode("ascii")
    return letter.with_payload(key.frozen or header + letter.payload)


def _readable(letter: Letter, addresses: Sequence[str], observer: HandOverObserver) -> list[str]:
    """Record whose address no server could be told, and return the others."""
    text = "5.1.3 not offered: no mailbox can be read from the address; correct it where it comes from"
    unreadable = [address for address in addresses if address not in letter.wire]
    if unreadable:
        observer.record(dict.fromkeys(unreadable, Reply(DeliveryStatus.REFUSED, 553, text)))
    return [address for address in addresses if address in letter.wire]


def _servable(
    letter: Letter, smtp: smtplib.SMTP, addresses: Sequence[str], observer: HandOverObserver
) -> list[str]:
    """Record who cannot be served by this server, by what it has said to EHLO, and return the others."""
    refused: dict[str, Reply] = {}
    limit = _number(smtp.esmtp_features.get("size", ""))
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


def _most(smtp: smtplib.SMTP) -> int | None:
    """Return the most recipients of one transaction, where the server says so beforehand (RFC 9422)."""
    said = _RCPTMAX.search(smtp.esmtp_features.get("limits", ""))
    return _number(said.group(1)) or None if said else None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 19 else 0
