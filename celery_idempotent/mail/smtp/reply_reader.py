"""Reads a mail server's replies within a time limit and a size limit, whatever the server does.

`smtplib` has a time limit for each piece that arrives: a server that sends a byte now and then would hold it
for ever. `smtplib` would also take a line that comes out of turn as the answer to the next command. So it reads
from a `ReplyReader` here.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from functools import lru_cache
from math import inf
from typing import Any, ClassVar

from ...compat import get_reply_stream, set_reply_stream

_DEFAULT_PATIENCE = 60.0
"""Seconds for a reply where a connection was made without any timeout."""
_CHUNK = 1 << 14
_NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ReplyReader:
    """Stream of the lines that ``smtp`` receives. `smtplib` calls `readline` and `close`."""

    longest_reply: ClassVar[int] = 1 << 20
    """Octets of one reply with all its lines. `smtplib` takes 8,192 in a line; RFC 5321 §4.5.3.1.5 has 512."""

    def __init__(self, smtp: smtplib.SMTP, patience: float) -> None:
        self._smtp = smtp
        self.patience = patience
        """Seconds that one reply, with all its lines, may take."""
        self.end = inf
        """Moment of `time.monotonic` at which every reply has to be complete."""
        self._unread = b""
        self._begin_reply()

    @classmethod
    def of(cls, smtp: smtplib.SMTP, patience: float) -> ReplyReader:
        """Return the reader of ``smtp``, put in place if missing; it gives each reply ``patience`` seconds."""
        reader = get_reply_stream(smtp)
        if not isinstance(reader, ReplyReader):
            reader = cls(smtp, patience)
            set_reply_stream(smtp, reader)
        reader.patience = patience
        return reader

    def _begin_reply(self) -> None:
        self._code: bytes | None = None
        self._octets = 0

    @property
    def out_of_turn(self) -> bool:
        """True if the server has sent a line that answers no command."""
        return bool(self._unread)

    def listen(self) -> None:
        """Take in lines that the server has sent unasked, at once. Raises `OSError` if it has hung up."""
        sock = self._socket()
        sock.settimeout(0.0)
        try:
            received = sock.recv(_CHUNK)
        except _NOTHING_YET:
            return
        if not received:
            raise ConnectionError("the server has hung up")
        self._unread += received

    def readline(self, limit: int) -> bytes:
        """Return one line with its end, or ``limit`` octets of a longer one, or nothing.

        Nothing means that the connection was closed, also in the middle of a line (RFC 5321 §2.3.8), or that
        a reply's lines have different codes (§4.2.1). Raises `OSError`: out of time, out of turn, too long.
        """
        if self._code is None:
            if self.out_of_turn:
                raise ConnectionError("the server spoke out of turn")
            self._until = time.monotonic() + self.patience
        line = self._line(limit)
        if self._code is not None and line[:3] != self._code:
            return b""
        self._code = line[:3]
        if line[3:4] != b"-":
            self._begin_reply()
        return line

    def _line(self, limit: int) -> bytes:
        while b"\n" not in self._unread and len(self._unread) < limit:
            received = self._receive()
            if not received:
                return b""
            self._unread += received
        end = min(self._unread.find(b"\n") + 1 or limit, limit)
        line, self._unread = self._unread[:end], self._unread[end:]
        return line

    def _receive(self) -> bytes:
        sock = self._socket()
        sock.settimeout(_seconds_until(min(self._until, self.end)))
        received = sock.recv(_CHUNK)
        self._octets += len(received)
        if self._octets > self.longest_reply:
            raise ConnectionError(f"a reply of more than {self.longest_reply} octets")
        return received

    def _socket(self) -> socket.socket:
        if self._smtp.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        return self._smtp.sock

    def time_left(self) -> float:
        """Return the seconds until `end`. Raises `TimeoutError` when it has come."""
        return _seconds_until(self.end)

    def close(self) -> None:
        """Nothing to close: the socket is the connection's."""


def _seconds_until(end: float) -> float:
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("out of time")
    return seconds


class _ReadsInTime(smtplib.SMTP):
    """Reads greeting, EHLO, STARTTLS and AUTH with `ReplyReader`, all of them within so many seconds."""

    within: ClassVar[float]

    def __init__(self, *args: Any, **options: Any) -> None:
        self.ready_by = time.monotonic() + self.within
        super().__init__(*args, **options)

    def getreply(self) -> tuple[int, bytes]:
        if not isinstance(get_reply_stream(self), ReplyReader):
            known = isinstance(self.timeout, int | float)
            ReplyReader.of(self, float(self.timeout) if known else _DEFAULT_PATIENCE).end = self.ready_by
        return super().getreply()


@lru_cache(maxsize=16)
def add_reply_reader(kind: type[smtplib.SMTP], within: float) -> type[smtplib.SMTP]:
    """Return ``kind`` of connection, reading with `ReplyReader` from the first reply on.

    A connection has ``within`` seconds for all that comes before it is ready.
    """
    return type(kind.__name__, (_ReadsInTime, kind), {"within": within})
