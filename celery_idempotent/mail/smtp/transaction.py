"""One SMTP transaction: MAIL, RCPT, DATA, the write-ahead, the payload, and the one reply that decides."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

from ...ledger.addresses import mask_all
from ...ledger.held_claim import NOT_YET
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ..transport_protocol import HandOverObserver
from .connections import Connection
from .rendering import Letter
from .reply_codes import Kind, is_about_utf8, is_too_large, kind, read_reply, readable, refusal, unoffered
from .reply_reader import left
from .sockets import discard_unsent

_LOST = (OSError, smtplib.SMTPException)
RCPT_SHARE = 1 / 3
"""Part of the send timeout after which those taken so far are served before more are offered.

Of a server that takes equally long for each reply, one more and DATA fit into the rest.
"""


class Stale(Exception):
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
        """The most recipients that another transaction should have, after a refusal of so many."""
        self.doubtful = False
        self.out_of_time = False
        """The server took too long before the payload."""
        self._began = time.monotonic()
        self._replies: dict[str, Reply] = {}
        self._asked = 0
        self._taken: list[str] = []

    def run(self, batch: Sequence[str]) -> list[str]:
        """Return who has to be offered it in another transaction; about all others ``observer`` knows.

        Raises `Stale`, `smtplib.SMTPSenderRefused`, and what the write-ahead raises: nothing was sent.
        """
        again = self._offer(batch)
        accepted = False
        if self._taken:
            end = time.monotonic() + self.timeout  # before the write-ahead: the store's deadline starts in it
            self.observer.write_ahead(list(self._taken), self.letter.payload)
            said, reply = self._release(self.connection.smtp, end)
            accepted, self.doubtful = said is Kind.ACCEPTED, said is Kind.UNKNOWN
            self.connection.usable = not self.doubtful and reply.code not in (None, 421)
            self._replies |= dict.fromkeys(self._taken, reply)
            if said is Kind.LIMIT:
                again = self._halved() + again
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
                about_utf8 = is_about_utf8(refused.code or 0, refused.detail)
                self._replies = dict.fromkeys((about_utf8 and self._utf8(batch)) or batch, refused)
                return [address for address in batch if address not in self._replies]
            again = self._rcpt(batch)
            return self._data() + again if self._taken else again
        except smtplib.SMTPSenderRefused:
            raise
        except _LOST as error:
            self.connection.usable = False
            self.out_of_time = _is_timeout(error)
            return self._lost(batch, _not_offered(error))

    def _lost(self, batch: Sequence[str], reply: Reply) -> list[str]:
        """Defer those without a reply, and return who may be served in time without the others: those taken."""
        again = frozenset(self._taken if self.out_of_time and len(self._taken) < len(batch) else ())
        later = replace(reply, detail=f"{NOT_YET}: {reply.detail}")
        for place, address in enumerate(batch):
            if address not in again:
                self._replies.setdefault(address, later if place >= self._asked > 0 else reply)
        self._taken = []
        return [address for address in batch if address in again]

    def _mail(self, batch: Sequence[str]) -> Reply | None:
        """Begin. Return the refusal that concerns the recipients, or None."""
        self.connection.lines.end = self._began + self.timeout
        sender = self.letter.sender
        try:
            code, text = self.connection.smtp.mail(sender, self._options(batch))
        except _LOST as error:
            raise error if self.connection.fresh else Stale from error
        if _is_yes(code):
            return None
        if code == 421 and not self.connection.fresh:
            raise Stale
        said = kind(code, text)
        if code == 421 or said is Kind.UNKNOWN:
            raise smtplib.SMTPResponseException(code, text)
        if said is Kind.PERMANENT and not self._is_of_recipients(batch, code, readable(text)):
            raise smtplib.SMTPSenderRefused(code, mask_all(readable(text)).encode(), sender)
        return refusal(said, code, text)

    def _is_of_recipients(self, batch: Sequence[str], code: int, text: str) -> bool:
        """Tell whether a refusal of MAIL is one of the message or of who needs SMTPUTF8, not of the sender."""
        of_utf8 = is_about_utf8(code, text) and self.letter.sender.isascii() and self._utf8(batch)
        return bool(of_utf8) or is_too_large(code, text)

    def _options(self, batch: Sequence[str]) -> list[str]:
        smtp, letter = self.connection.smtp, self.letter
        options = [f"size={letter.size}"] if smtp.has_extn("size") else []
        if self._utf8(batch):
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        elif letter.eight_bit and smtp.has_extn("8bitmime"):
            options.append("BODY=8BITMIME")
        return options if smtp.does_esmtp else []

    def _utf8(self, batch: Sequence[str]) -> list[str]:
        """Return those who can be served over SMTPUTF8 alone."""
        return [address for address in batch if self.letter.needs_smtputf8(address)]

    def _rcpt(self, batch: Sequence[str]) -> list[str]:
        """Offer the recipients, and return those that the server's limit, or time, leaves for another time."""
        for place, address in enumerate(batch):
            if self._taken and time.monotonic() - self._began > self.timeout * RCPT_SHARE:
                return list(batch[place:])
            self._asked = place + 1
            code, text = self.connection.smtp.rcpt(self.letter.wire[address])
            if _is_yes(code):
                self._taken.append(address)
                continue
            said = kind(code, text, at_rcpt=True)
            if code == 421 or said in (Kind.UNKNOWN, Kind.ACCEPTED):
                # Whether it counts as a recipient now is unclear, so this transaction must not go on.
                raise smtplib.SMTPResponseException(code, text)
            if said is Kind.LIMIT and self._taken:
                return list(batch[place:])
            self._replies[address] = refusal(said, code, text)
        return []

    def _data(self) -> list[str]:
        """Ask for the payload; return those taken who were too many."""
        smtp = self.connection.smtp
        smtp.putcmd("data")
        code, text = smtp.getreply()
        if code == 354:
            return []
        said = kind(code, text)
        if code == 421 or said in (Kind.UNKNOWN, Kind.ACCEPTED):
            raise smtplib.SMTPResponseException(code, text)
        again = self._halved() if said is Kind.LIMIT else []
        self._replies |= {} if again else dict.fromkeys(self._taken, refusal(said, code, text))
        self._taken = []
        return again

    def _halved(self) -> list[str]:
        """Return those taken, to be offered again in smaller batches; nobody if one was too many."""
        if len(self._taken) < 2:
            return []
        self.most = len(self._taken) // 2
        return list(self._taken)

    # -- the payload -------------------------------------------------------------------------------------

    def _release(self, smtp: Any, end: float) -> tuple[Kind, Reply]:
        """Send the payload and its final dot, and return what the reply says.

        Until the dot is handed to the kernel the server must not take the mail (RFC 5321 §4.1.1.4), so a
        failure before it is definite; from then on, silence is doubt (RFC 1047).
        """
        lines, released = self.connection.lines, False
        lines.patience, lines.end = inf, end
        discard_unsent(smtp.sock)
        try:
            smtp.sock.settimeout(left(end))
            smtp.sock.sendall(self.letter.payload)
            lines.listen()
            if lines.out_of_turn:
                raise ConnectionError("the server spoke out of turn")
            smtp.sock.settimeout(left(end))
            self.observer.released = released = True
            smtp.sock.sendall(b".\r\n")
            said = read_reply(*smtp.getreply())
            discard_unsent(smtp.sock, False)
            return said
        except (*_LOST, ValueError) as error:
            where = f"{'after' if released else 'before'} the final dot: {_named(error)}"
            if released:
                return Kind.UNKNOWN, Reply(DeliveryStatus.IN_DOUBT, None, where)
            return Kind.TEMPORARY, Reply(DeliveryStatus.DEFERRED, None, where)

    def _reset(self) -> None:
        """Have the server forget what was not finished, if it is still there."""
        if not self.connection.usable:
            return
        try:
            self.connection.usable = self.connection.smtp.rset()[0] == 250
        except _LOST:
            self.connection.usable = False


def _is_yes(code: int) -> bool:
    return 250 <= code <= 259


def _not_offered(error: Exception) -> Reply:
    if isinstance(error, smtplib.SMTPResponseException):
        return unoffered(error.smtp_code, error.smtp_error)
    return Reply(DeliveryStatus.DEFERRED, None, f"before the payload: {_named(error)}")


def _is_timeout(error: Exception) -> bool:
    """`smtplib` makes a lost connection of it."""
    return isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
