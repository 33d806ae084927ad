"""SMTP connections: opened before a hand-over, kept between messages, and closed after any unexpected reply."""

from __future__ import annotations

import os
import smtplib
import socket
import time
from collections import deque
from collections.abc import Hashable, Iterator
from math import inf
from types import TracebackType
from typing import NamedTuple

from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from ...compat import get_smtp_settings, take_connections
from ...conf import conf
from .reply_reader import ReplyReader
from .time_limits import limit_timeouts

_Account = Hashable
"""Equal for backends whose connections are interchangeable."""


class _Idle(NamedTuple):
    """An open connection that waits for a message; moments of `time.monotonic`."""

    smtp: smtplib.SMTP
    opened_at: float
    idle_since: float


class ConnectionPool:
    """Open connections of this process that wait for a message.

    A hand-over takes one out and has it to itself, so threads and greenlets never share one. After a fork the
    child closes its copies without a word to the server: the parent goes on using them.
    """

    longest_life = 300.0
    """Seconds after which a kept connection is replaced, so that changes of DNS and load are followed."""
    health_patience = 5.0
    """Seconds for a kept connection to answer RSET, before another one is opened."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._kept: dict[_Account, deque[_Idle]] = {}

    def _kept_here(self) -> dict[_Account, deque[_Idle]]:
        """Return the connections by account, without those that a parent process has opened."""
        if self._pid != os.getpid():
            inherited, self._kept, self._pid = self._kept, {}, os.getpid()
            for idle in inherited.values():
                _close_all(idle)
        return self._kept

    def idle(self) -> list[smtplib.SMTP]:
        """Return the connections that wait for a message."""
        return [one.smtp for idle in list(self._kept_here().values()) for one in list(idle)]

    def take(self, account: _Account, longest_idle: float) -> tuple[smtplib.SMTP, float] | None:
        """Return a connection that answers, and when it was opened; or None. Unfit connections are closed.

        A server that is silent on one connection is not asked on the others: a dead peer costs one wait.
        """
        idle = self._kept_here().get(account, deque())
        for smtp, opened_at, idle_since in _pop_each(idle):
            now = time.monotonic()
            if now - idle_since <= longest_idle and now - opened_at <= self.longest_life:
                if self.is_healthy(smtp):
                    return smtp, opened_at
                if time.monotonic() - now >= self.health_patience:
                    _close_all(idle)
            smtp.close()
        return None

    def put(self, account: _Account, smtp: smtplib.SMTP, opened_at: float, longest_idle: float) -> None:
        """Keep ``smtp``, whose last transaction is over, and close connections that nobody has taken for long.

        Those of other accounts as well: by some accounts nothing may ever be sent again.
        """
        kept = self._kept_here()
        kept.setdefault(account, deque()).append(_Idle(smtp, opened_at, time.monotonic()))
        for idle in list(kept.values()):
            _close_old(idle, longest_idle)

    def close(self) -> None:
        """Say goodbye on all kept connections."""
        kept = self._kept_here()
        for idle in list(kept.values()):
            for smtp, _, _ in _pop_each(idle):
                try:
                    ReplyReader.of(smtp, self.health_patience)
                    smtp.quit()
                except (OSError, smtplib.SMTPException):
                    smtp.close()
        kept.clear()

    def is_healthy(self, smtp: smtplib.SMTP) -> bool:
        """Ask for a clean state (RSET, RFC 5321 §4.1.1.5); a server that has hung up says so here."""
        try:
            ReplyReader.of(smtp, self.health_patience)
            return smtp.rset()[0] == 250
        except (OSError, smtplib.SMTPException):
            return False


def _pop_each(idle: deque[_Idle]) -> Iterator[_Idle]:
    """Take one after the other out of ``idle``, the newest first, beside other threads that do so."""
    while True:
        try:
            one = idle.pop()
        except IndexError:
            return
        yield one


def _close_all(idle: deque[_Idle]) -> None:
    for smtp, _, _ in _pop_each(idle):
        smtp.close()


def _close_old(idle: deque[_Idle], longest_idle: float) -> None:
    """Close the connections that nobody has taken for ``longest_idle`` seconds: they stand first."""
    while idle:
        try:
            oldest = idle.popleft()
        except IndexError:  # another thread was faster
            return
        if time.monotonic() - oldest.idle_since <= longest_idle:
            idle.appendleft(oldest)
            return
        oldest.smtp.close()


pool = ConnectionPool()


class Connection:
    """The connection of one hand-over: the caller's own, a kept one, or a new one.

    As a context manager it is ready inside the block; an error drops it, else it is left in order.
    """

    def __init__(self, backend: DjangoSMTP, timeout: float) -> None:
        self.backend = backend
        self.timeout = timeout
        self.patience = limit_timeouts(backend, timeout)
        self.fresh = False
        """True if opened for this hand-over: age cannot be the cause of a failure then."""
        self.usable = True
        """False once the server may be in the middle of something: `leave` closes the connection silently."""
        self._idle_limit = conf.connection_idle
        self._account = _account(backend) if self._idle_limit else None
        self._opened_at = 0.0
        self._is_callers = False

    @property
    def smtp(self) -> smtplib.SMTP:
        """Django's connection."""
        if self.backend.connection is None:
            raise smtplib.SMTPServerDisconnected("there is no connection")
        return self.backend.connection

    @property
    def sock(self) -> socket.socket:
        """Socket of the connection."""
        if self.smtp.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        return self.smtp.sock

    @property
    def reader(self) -> ReplyReader:
        """Reader of the connection's replies."""
        return ReplyReader.of(self.smtp, self.patience)

    def __enter__(self) -> Connection:
        try:
            self.get()
        except BaseException:
            self.drop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.leave()
        else:
            self.drop()  # never leave half a transaction on a connection that is used again

    def _is_open(self) -> bool:
        return self.backend.connection is not None and self.backend.connection.sock is not None

    def get(self) -> None:
        """Have a connection that has said EHLO. Raises the errors of `smtplib`: nothing was sent."""
        if self._is_open():
            self._is_callers = True
        elif self._account is not None and (found := pool.take(self._account, self._idle_limit)):
            self.backend.connection, self._opened_at = found
        else:
            self.renew()
            return
        self.reader.end = time.monotonic() + self.timeout
        self._introduce()

    def renew(self) -> None:
        """Replace the connection by a new one. Only ever between transactions."""
        self.drop()
        try:
            self.backend.open()
        except BaseException:
            self.drop()  # Django keeps a connection that got no further than its greeting
            raise
        if self.backend.connection is None:  # the backend is told to fail silently
            raise smtplib.SMTPServerDisconnected("the backend has opened no connection")
        self._opened_at, self.fresh, self.usable = time.monotonic(), True, True
        self._introduce()

    def _introduce(self) -> None:
        try:
            # Else the final dot, a packet of its own, would wait for the acknowledgement of the payload.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # not TCP
        self.smtp.ehlo_or_helo_if_needed()

    def leave(self) -> None:
        """Keep the connection for the next message, close it, or leave it to the caller who opened it."""
        if not self.usable or not self._is_open():
            self.drop()
            return
        self.reader.end = inf
        self.sock.settimeout(self.patience)
        if self._is_callers:
            return
        if self._account is not None:
            pool.put(self._account, self.smtp, self._opened_at, self._idle_limit)
            self.backend.connection = None
            return
        try:
            self.backend.close()
        except (OSError, smtplib.SMTPException):
            self.drop()  # the mail is settled; a failing QUIT changes nothing

    def drop(self) -> None:
        """Close the connection without another word: an unfinished payload has to stay unfinished."""
        for smtp in take_connections(self.backend):
            smtp.close()


def _account(backend: DjangoSMTP) -> _Account | None:
    """Return a value that two backends with interchangeable connections share, or None if that is unknown."""
    settings = get_smtp_settings(backend)
    for name in ("timeout", "opens_within"):  # set anew for each hand-over, by `limit_timeouts`
        settings.pop(name, None)
    if not all(isinstance(value, str | int | float | None) for value in settings.values()):
        return None  # a subclass with state of its own
    return (type(backend), *sorted(settings.items()))
