"""SMTP connections: opened before a hand-over, kept open between messages, never trusted after a surprise."""

from __future__ import annotations

import os
import smtplib
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from math import inf
from typing import Any

from ...conf import conf
from .reply_reader import ReplyReader, lines_of, patient

LONGEST_LIFE = 300.0
"""Seconds after which a kept connection is replaced, so that changes of DNS and load are followed."""
HEALTH_PATIENCE = 5.0
"""Seconds that a kept connection has to answer RSET in, before another one is opened."""

Idle = deque[tuple[smtplib.SMTP, float, float]]
"""Connections to one server by one account: each with when it was opened, and since when nobody uses it."""
_STATE = frozenset({"connection", "_partial_connection", "_lock", "ssl_context", "timeout", "opens_within"})


class ConnectionPool:
    """Open connections that nobody is using, of this process alone.

    A hand-over takes one out and has it to itself, so threads and greenlets never share one. After a fork the
    child closes its copies without a word to the server: the parent goes on using them.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._idle: dict[Any, Idle] = {}

    def _of_this_process(self) -> dict[Any, Idle]:
        if self._pid != os.getpid():
            inherited, self._idle, self._pid = self._idle, {}, os.getpid()
            for idle in inherited.values():
                _close(idle)
        return self._idle

    def take(self, identity: Any, longest_idle: float) -> tuple[smtplib.SMTP, float] | None:
        """Return a connection that answers, and when it was opened; or None. Others found unfit are closed.

        A server that is silent on one is not asked on the others: a dead peer costs one wait.
        """
        kept = self._of_this_process().get(identity, deque())
        for smtp, born, since in _taken_out(kept):
            now = time.monotonic()
            if now - since <= longest_idle and now - born <= LONGEST_LIFE:
                if _is_healthy(smtp):
                    return smtp, born
                if time.monotonic() - now >= HEALTH_PATIENCE:
                    _close(kept)
            smtp.close()
        return None

    def put(self, identity: Any, smtp: smtplib.SMTP, born: float, longest_idle: float) -> None:
        """Keep ``smtp``, whose last transaction is over, until it is taken; close those that nobody takes.

        Those of other accounts as well: by some of them nothing may ever be sent again.
        """
        idle = self._of_this_process()
        idle.setdefault(identity, deque()).append((smtp, born, time.monotonic()))
        for kept in list(idle.values()):
            _close_old(kept, longest_idle)

    def close(self) -> None:
        """Say goodbye on all kept connections."""
        idle = self._of_this_process()
        for kept in list(idle.values()):
            for smtp, _, _ in _taken_out(kept):
                try:
                    lines_of(smtp, HEALTH_PATIENCE)
                    smtp.quit()
                except (OSError, smtplib.SMTPException):
                    smtp.close()
        idle.clear()


def _taken_out(idle: Idle) -> Iterator[tuple[smtplib.SMTP, float, float]]:
    """Take one after the other out of ``idle``, the newest first, beside other threads that do so."""
    while True:
        try:
            one = idle.pop()
        except IndexError:
            return
        yield one


def _close(idle: Idle) -> None:
    for smtp, _, _ in _taken_out(idle):
        smtp.close()


def _close_old(idle: Idle, longest_idle: float) -> None:
    """Close those that nobody has taken for ``longest_idle`` seconds: they stand first."""
    while idle:
        try:
            oldest = idle.popleft()
        except IndexError:  # another thread was faster
            return
        if time.monotonic() - oldest[2] <= longest_idle:
            idle.appendleft(oldest)
            return
        oldest[0].close()


pool = ConnectionPool()


def _is_healthy(smtp: smtplib.SMTP) -> bool:
    """Ask for a clean state (RSET, RFC 5321 §4.1.1.5); a server that has hung up says so here."""
    try:
        lines_of(smtp, HEALTH_PATIENCE)
        return smtp.rset()[0] == 250
    except (OSError, smtplib.SMTPException):
        return False


class Connection:
    """The connection of one hand-over: the caller's own, a kept one, or a new one."""

    def __init__(self, backend: Any, timeout: float) -> None:
        self.backend = backend
        self.timeout = timeout
        self.patience = limit_timeouts(backend, timeout)
        self.fresh = False
        """True if opened for this hand-over: a failure is then no matter of its age."""
        self.usable = True
        """False once the server's state is not known to be clean: it is closed then, without another word."""
        self._idle_limit = conf.connection_idle
        self._identity = _identity(backend) if self._idle_limit else None
        self._born = 0.0
        self._is_callers = False

    @property
    def smtp(self) -> Any:
        """Django's connection."""
        return self.backend.connection

    @property
    def lines(self) -> ReplyReader:
        """What reads from it."""
        return lines_of(self.smtp, self.patience)

    def get(self) -> None:
        """Have a connection that has said EHLO. Raises what `smtplib` raises: nothing was sent."""
        if self.smtp is not None and self.smtp.sock is not None:
            self._is_callers = True
        elif self._identity is not None and (found := pool.take(self._identity, self._idle_limit)):
            self.backend.connection, self._born = found
        else:
            self.renew()
            return
        self.lines.end = time.monotonic() + self.timeout
        self._introduce()

    def renew(self) -> None:
        """Replace it by a new one. Only ever between transactions."""
        self.drop()
        try:
            self.backend.open()
        except BaseException:
            self.drop()  # Django keeps a connection that got no further than its greeting
            raise
        if self.smtp is None:  # one that is told to fail silently
            raise smtplib.SMTPServerDisconnected("the backend has opened no connection")
        self._born, self.fresh, self.usable = time.monotonic(), True, True
        self._introduce()

    def _introduce(self) -> None:
        try:
            # Else the final dot, a packet of its own, would wait for the acknowledgement of the payload.
            self.smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # not TCP
        self.smtp.ehlo_or_helo_if_needed()

    def leave(self) -> None:
        """Keep it for the next message, close it, or leave it to the caller who opened it."""
        if not self.usable or self.smtp is None or self.smtp.sock is None:
            self.drop()
            return
        self.lines.end = inf
        self.smtp.sock.settimeout(self.patience)
        if self._is_callers:
            return
        if self._identity is not None:
            pool.put(self._identity, self.smtp, self._born, self._idle_limit)
            self.backend.connection = None
            return
        try:
            self.backend.close()
        except (OSError, smtplib.SMTPException):
            self.drop()  # the mail is settled; a failing QUIT changes nothing

    def drop(self) -> None:
        """Close it without another word: an unfinished payload has to stay unfinished."""
        for name in ("connection", "_partial_connection"):
            smtp = getattr(self.backend, name, None)
            if smtp is not None:
                smtp.close()
                setattr(self.backend, name, None)


@contextmanager
def connected(backend: Any, timeout: float) -> Iterator[Connection]:
    """Have a `Connection` that is ready; drop it after an error, else leave it in order."""
    connection = Connection(backend, timeout)
    try:
        connection.get()
        yield connection
    except BaseException:
        connection.drop()  # never leave half a transaction on a connection that is used again
        raise
    connection.leave()


def limit_timeouts(backend: Any, timeout: float) -> float:
    """Give ``backend`` a time limit for each reply, of at most ``timeout`` seconds, and return it.

    A connection that it opens has ``timeout`` for all that comes before it is ready.
    """
    backend.opens_within = timeout
    own = backend.timeout
    backend.timeout = timeout if own is None else min(own, timeout)
    return float(backend.timeout)


def _identity(backend: Any) -> Any:
    """Return what two backends with interchangeable connections have in common, or None if that is unknown."""
    settings = {name: value for name, value in vars(backend).items() if name not in _STATE}
    if not all(isinstance(value, str | int | float | None) for value in settings.values()):
        return None  # a subclass with state of its own
    return (type(backend), *sorted(settings.items()))


@lru_cache(maxsize=16)
def guarded(kind: Any) -> Any:
    """Return ``kind`` of backend, its connections reading within their time from the first reply on."""

    class Guarded(kind):  # type: ignore[misc]
        opens_within = inf

        @property
        def connection_class(self) -> Any:
            in_time: Any = patient(super().connection_class)
            return partial(in_time, within=self.opens_within)

    Guarded.__name__, Guarded.__qualname__ = kind.__name__, kind.__qualname__
    return Guarded
