"""One SMTP transaction: MAIL, RCPT, DATA, the write-ahead, the payload, and the one reply that decides."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from ...ledger.addresses import mask_all
from ...ledger.held_claim import NOT_YET
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ..transport_protocol import HandOverObserver
from .connections import Connection
from .rendering import Letter
from .reply_codes import Kind, ServerReply
from .sockets import discard_unsent

_LOST = (OSError, smtplib.SMTPException)
_RCPT_SHARE = 1 / 3
"""Part of the send timeout after which the recipients taken so far are served before more are offered.

Where a server takes equally long for each reply, one more RCPT and DATA fit into the rest.
"""


class StaleConnection(Exception):
    """Raised when a connection that had been in use before ends before a transaction has begun."""


class Transaction:
    """Offers ``letter`` to a batch of addresses, and tells ``observer``.

    ``timeout`` is for all that comes before the write-ahead, and once more for what follows from there on.
    """

    def __init__(
        self, connection: Connection, letter: Letter, observer: HandOverObserver, timeout: float
    ) -> None:
        self.connection = connection
        self.letter = letter
        self.observer = observer
        self.timeout = timeout
        self.most: int | None = None
        """Most recipients for another transaction, after the server refused so many at once."""
        self.doubtful = False
        self.out_of_time = False
        """True if the server took too long before the payload."""
        self._began = time.monotonic()
        self._replies: dict[str, Reply] = {}
        self._asked = 0
        self._taken: list[str] = []

    def run(self, batch: Sequence[str]) -> list[str]:
        """Offer the letter, record the replies, and return the recipients who need another transaction.

        Raises `StaleConnection`, `smtplib.SMTPSenderRefused`, or errors of the write-ahead: nothing was sent.
        """
        again = self._offer(batch)
        accepted = False
        if self._taken:
            end = time.monotonic() + self.timeout  # before the write-ahead: the store's deadline starts in it
            self.observer.write_ahead(list(self._taken), self.letter.payload)
            kind, reply = self.send_payload(self.connection.smtp, end)
            accepted, self.doubtful = kind is Kind.ACCEPTED, kind is Kind.UNKNOWN
            self.connection.usable = not self.doubtful and reply.code not in (None, 421)
            self._replies |= dict.fromkeys(self._taken, reply)
            if kind is Kind.LIMIT:
                again = self._halve() + again
        if self._replies:
            self.observer.record(self._replies)
        if not accepted:
            self._reset()
        self.connection.fresh = False
        return again

    # -- before the payload: all of it is definite -------------------------------------------------------

    def _offer(self, batch: Sequence[str]) -> list[str]:
        try:
            refused = self._mail(batch)
            if refused is not None:
                about_utf8 = ServerReply(refused.code or 0, refused.detail).refuses_utf8()
                self._replies = dict.fromkeys((about_utf8 and self._needing_utf8(batch)) or batch, refused)
                return [address for address in batch if address not in self._replies]
            again = self._rcpt(batch)
            return self._data() + again if self._taken else again
        except smtplib.SMTPSenderRefused:
            raise
        except _LOST as error:
            self.connection.usable = False
            self.out_of_time = _is_timeout(error)
            return self._defer_lost(batch, _read_loss(error))

    def _defer_lost(self, batch: Sequence[str], reply: Reply) -> list[str]:
        """Defer recipients without a reply; return those taken if they can be served in time on their own."""
        again = frozenset(self._taken if self.out_of_time and len(self._taken) < len(batch) else ())
        later = replace(reply, detail=f"{NOT_YET}: {reply.detail}")
        for index, address in enumerate(batch):
            if address not in again:
                self._replies.setdefault(address, later if index >= self._asked > 0 else reply)
        self._taken = []
        return [address for address in batch if address in again]

    def _mail(self, batch: Sequence[str]) -> Reply | None:
        """Begin the transaction. Return a refusal that concerns the recipients, or None."""
        self.connection.reader.end = self._began + self.timeout
        sender = self.letter.sender
        try:
            reply = ServerReply.read(*self.connection.smtp.mail(sender, self._options(batch)))
        except _LOST as error:
            raise error if self.connection.fresh else StaleConnection from error
        if reply.is_positive:
            return None
        if reply.code == 421 and not self.connection.fresh:
            raise StaleConnection
        kind = reply.classify()
        if reply.code == 421 or kind is Kind.UNKNOWN:
            raise smtplib.SMTPResponseException(reply.code, reply.text)
        if kind is Kind.PERMANENT and not self._is_of_recipients(batch, reply):
            raise smtplib.SMTPSenderRefused(reply.code, mask_all(reply.text).encode(), sender)
        return reply.to_ledger(kind.status_before_payload)

    def _is_of_recipients(self, batch: Sequence[str], reply: ServerReply) -> bool:
        """Tell whether a refusal of MAIL concerns the message or recipients who need SMTPUTF8."""
        of_utf8 = reply.refuses_utf8() and self.letter.sender.isascii() and self._needing_utf8(batch)
        return bool(of_utf8) or reply.refuses_size()

    def _options(self, batch: Sequence[str]) -> list[str]:
        smtp, letter = self.connection.smtp, self.letter
        options = [f"size={letter.size}"] if smtp.has_extn("size") else []
        if self._needing_utf8(batch):
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        elif letter.eight_bit and smtp.has_extn("8bitmime"):
            options.append("BODY=8BITMIME")
        return options if smtp.does_esmtp else []

    def _needing_utf8(self, batch: Sequence[str]) -> list[str]:
        """Return the recipients who need a server with SMTPUTF8."""
        return [address for address in batch if self.letter.needs_smtputf8(address)]

    def _rcpt(self, batch: Sequence[str]) -> list[str]:
        """Offer the recipients; return those for whom the server's limit, or the time, leaves no room."""
        for index, address in enumerate(batch):
            if self._taken and time.monotonic() - self._began > self.timeout * _RCPT_SHARE:
                return list(batch[index:])
            self._asked = index + 1
            reply = ServerReply.read(*self.connection.smtp.rcpt(self.letter.wire[address]))
            if reply.is_positive:
                self._taken.append(address)
                continue
            kind = reply.classify(at_rcpt=True)
            if reply.code == 421 or kind in (Kind.UNKNOWN, Kind.ACCEPTED):
                # The recipient may count or not, so this transaction must not go on.
                raise smtplib.SMTPResponseException(reply.code, reply.text)
            if kind is Kind.LIMIT and self._taken:
                return list(batch[index:])
            self._replies[address] = reply.to_ledger(kind.status_before_payload)
        return []

    def _data(self) -> list[str]:
        """Announce the payload; return recipients taken who were too many."""
        smtp = self.connection.smtp
        smtp.putcmd("data")
        reply = ServerReply.read(*smtp.getreply())
        if reply.code == 354:
            return []
        kind = reply.classify()
        if reply.code == 421 or kind in (Kind.UNKNOWN, Kind.ACCEPTED):
            raise smtplib.SMTPResponseException(reply.code, reply.text)
        again = self._halve() if kind is Kind.LIMIT else []
        refused = reply.to_ledger(kind.status_before_payload)
        self._replies |= {} if again else dict.fromkeys(self._taken, refused)
        self._taken = []
        return again

    def _halve(self) -> list[str]:
        """Return the recipients taken, for smaller batches; nobody if one recipient was too many."""
        if len(self._taken) < 2:
            return []
        self.most = len(self._taken) // 2
        return list(self._taken)

    # -- the payload -------------------------------------------------------------------------------------

    def send_payload(self, smtp: smtplib.SMTP, end: float) -> tuple[Kind, Reply]:
        """Send the payload and its final dot, and return the meaning of the reply.

        Until the dot is handed to the kernel the server must not take the mail (RFC 5321 §4.1.1.4), so a
        failure before the dot is definite; from then on, silence is doubt (RFC 1047).
        """
        reader, released = self.connection.reader, False
        reader.patience, reader.end = inf, end
        try:
            sock = self.connection.sock
            discard_unsent(sock)
            sock.settimeout(reader.time_left())
            sock.sendall(self.letter.payload)
            reader.listen()
            if reader.out_of_turn:
                raise ConnectionError("the server spoke out of turn")
            sock.settimeout(reader.time_left())
            self.observer.released = released = True
            sock.sendall(b".\r\n")
            reply = ServerReply.read(*smtp.getreply())
            discard_unsent(sock, False)
            kind = reply.classify()
            return kind, reply.to_ledger(kind.status)
        except (*_LOST, ValueError) as error:
            moment = f"{'after' if released else 'before'} the final dot: {_name(error)}"
            if released:
                return Kind.UNKNOWN, Reply(DeliveryStatus.IN_DOUBT, None, moment)
            return Kind.TEMPORARY, Reply(DeliveryStatus.DEFERRED, None, moment)

    def _reset(self) -> None:
        """Have the server forget an unfinished transaction, if the connection can still be used."""
        if not self.connection.usable:
            return
        try:
            self.connection.usable = self.connection.smtp.rset()[0] == 250
        except _LOST:
            self.connection.usable = False


def _read_loss(error: Exception) -> Reply:
    """Return the ledger's record for recipients who were not offered because of ``error``."""
    if isinstance(error, smtplib.SMTPResponseException):
        return ServerReply.read(error.smtp_code, error.smtp_error).to_ledger(DeliveryStatus.DEFERRED)
    return Reply(DeliveryStatus.DEFERRED, None, f"before the payload: {_name(error)}")


def _is_timeout(error: Exception) -> bool:
    """`smtplib` turns a timeout into a lost connection."""
    return isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
