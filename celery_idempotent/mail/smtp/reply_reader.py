"""Reading a server's replies within a time and a size, whatever the server does.

`smtplib` reads from ``smtp.file``, with a time limit for each piece that arrives. A server that sends a byte
now and then would hold it for ever, and what it says out of turn would count as the answer to the next command.
So ``smtp.file`` is a `ReplyReader` here.
"""

from __future__ import annotations

import smtplib
import ssl
import time
from functools import lru_cache
from math import inf
from typing import Any

LONGEST_REPLY = 1 << 20
"""Octets of one reply with all its lines. `smtplib` takes 8,192 in a line; RFC 5321 §4.5.3.1.5 has 512."""
DEFAULT_PATIENCE = 60.0
"""Seconds for a reply where a connection was made without any timeout."""
_CHUNK = 1 << 14
_NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ReplyReader:
    """The lines that ``smtp`` receives. `smtplib` calls `readline` and `close`."""

    def __init__(self, smtp: smtplib.SMTP, patience: float) -> None:
        self._smtp = smtp
        self.patience = patience
        """Seconds that one reply, with all its lines, may take."""
        self.end = inf
        """Moment of `time.monotonic` at which every reply has to be complete."""
        self._unread = b""
        self._begin_reply()

    def _begin_reply(self) -> None:
        self._code: bytes | None = None
        self._octets = 0

    @property
    def out_of_turn(self) -> bool:
        """True if the server has said more than it was asked: the next reply would answer nothing."""
        return bool(self._unread)

    def listen(self) -> None:
        """Take in what the server has said unasked, without waiting. Raises `OSError` if it has hung up."""
        sock: Any = self._smtp.sock
        sock.settimeout(0.0)
        try:
            received: bytes = sock.recv(_CHUNK)
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
        sock: Any = self._smtp.sock
        sock.settimeout(left(min(self._until, self.end)))
        received: bytes = sock.recv(_CHUNK)
        self._octets += len(received)
        if self._octets > LONGEST_REPLY:
            raise ConnectionError(f"a reply of more than {LONGEST_REPLY} octets")
        return received

    def close(self) -> None:
        """Nothing to close: the socket is the connection's."""


def left(end: float) -> float:
    """Return the seconds until ``end``. Raises `TimeoutError` when it has come."""
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("out of time")
    return seconds


def lines_of(smtp: smtplib.SMTP, patience: float) -> ReplyReader:
    """Return what reads for ``smtp``, put in place where it is not yet."""
    if not isinstance(smtp.file, ReplyReader):
        smtp.file = ReplyReader(smtp, patience)  # type: ignore[assignment]
    lines: Any = smtp.file
    lines.patience = patience
    return lines  # type: ignore[no-any-return]


class _Patient:
    """Reads greeting, EHLO, STARTTLS and AUTH with `ReplyReader`, all of them ``within`` so many seconds."""

    def __init__(self, *args: Any, within: float = inf, **options: Any) -> None:
        self.ready_by = time.monotonic() + within
        super().__init__(*args, **options)

    def getreply(self: Any) -> Any:
        if not isinstance(self.file, ReplyReader):
            known = isinstance(self.timeout, int | float)
            lines = lines_of(self, float(self.timeout) if known else DEFAULT_PATIENCE)
            lines.end = self.ready_by
        return super().getreply()  # type: ignore[misc]


@lru_cache(maxsize=16)
def patient(kind: type[smtplib.SMTP]) -> type[smtplib.SMTP]:
    """Return ``kind`` of connection, reading with `ReplyReader` from its first reply on."""
    return type(kind.__name__, (_Patient, kind), {})
