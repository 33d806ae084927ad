"""Time limits of Anymail's clients: a `Deadline` cuts the connection of a request that takes too long.

The timeouts of `requests` and botocore count for each piece that arrives. Both use urllib3, whose pools have a
class of connection; here that is a class whose connections report to the current `Deadline`.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from http.client import HTTPConnection
from threading import Timer
from typing import Any, cast

from anymail.backends.base import AnymailBaseBackend
from urllib3 import HTTPConnectionPool, PoolManager

from ...mail.smtp.sockets import discard_unsent
from .compat import prepare_pool_managers

logger = logging.getLogger("celery_idempotent")

_CONNECT_SHARE = 0.25
"""Part of the send timeout for the connection; it counts once for each address, and for TLS."""

_current: ContextVar[Deadline | None] = ContextVar("celery_idempotent_deadline", default=None)


class NotBegun(TimeoutError):
    """Raised when the deadline passes before a request has begun: nothing was sent."""


class Deadline:
    """Cuts the requests of its ``with`` block at ``end``, a moment of `time.monotonic`."""

    def __init__(self, end: float) -> None:
        self.cut = False
        """True if a connection was cut: the client's reading of half an answer says nothing then."""
        self._passed = False
        self._end_at = end
        self._connections: list[HTTPConnection] = []
        self._sockets: set[socket.socket] = set()
        self._timer = Timer(max(end - time.monotonic(), 0.0), self._end)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._token = _current.set(self)
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        _current.reset(self._token)
        if kind is None:
            for sock in self._sockets:
                discard_unsent(sock, False)

    def add(self, connection: HTTPConnection) -> None:
        """Keep ``connection`` to cut it at the end. Raises `NotBegun` if the end has come."""
        self._connections.append(connection)
        if _is_open(connection.sock):  # kept here: a connection gives its socket to an answer that ends it
            self._sockets.add(_bare(connection.sock))
            discard_unsent(_bare(connection.sock))
            # urllib3 would give all of the request as long as it gave the connection.
            connection.sock.settimeout(max(self._end_at - time.monotonic(), 0.0) + 1.0)
        if self._passed:
            raise NotBegun("the send deadline has passed")

    def _end(self) -> None:
        self._passed = True  # before anything is cut: `add` reads it for a connection not in the lists yet
        self.cut = bool(self._sockets)
        open_ones = (connection.sock for connection in self._connections if connection.sock is not None)
        for sock in {*self._sockets, *map(_bare, open_ones)}:
            _hang_up(sock)


def _is_open(sock: socket.socket | None) -> bool:
    """Tell whether ``sock`` can be cut: after an error about its certificate it is closed already."""
    return sock is not None and _bare(sock).fileno() >= 0


def _bare(sock: socket.socket) -> socket.socket:
    return cast(socket.socket, getattr(sock, "socket", sock))  # urllib3 wraps one for TLS within TLS


def _hang_up(sock: socket.socket) -> None:
    try:
        # Not TLS's own shutdown: a reader would go on with what is encrypted as if it were not.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # closed already


class _Watched(HTTPConnection):
    """Reports to the current `Deadline` before and after each step that may wait."""

    def connect(self) -> None:
        self._report()
        try:
            super().connect()
        finally:
            self._report()

    def putrequest(self, *args: Any, **options: Any) -> None:
        self._report()
        super().putrequest(*args, **options)

    def _report(self) -> None:
        if (deadline := _current.get()) is not None:
            deadline.add(self)


def _watch(manager: PoolManager) -> None:
    """Have the connections that ``manager`` makes from now on report to deadlines."""
    manager.pool_classes_by_scheme = dict(_watched_pools(manager))


def _watched_pools(manager: PoolManager) -> Iterator[tuple[str, type[HTTPConnectionPool]]]:
    pools = cast("dict[str, type[HTTPConnectionPool]]", manager.pool_classes_by_scheme)
    for scheme, pool in pools.items():
        watched = issubclass(pool.ConnectionCls, _Watched)
        yield scheme, pool if watched else _watched(pool)  # type: ignore[arg-type]


@lru_cache(maxsize=16)
def _watched(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    connection = type(pool.ConnectionCls.__name__, (_Watched, pool.ConnectionCls), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


@contextmanager
def open_client(backend: AnymailBaseBackend, timeout: float) -> Iterator[None]:
    """Inside the block the client of ``backend`` is open, with time limits; close it if opened here."""
    _limit_timeouts(backend, timeout)
    opened = backend.open()
    prepare_pool_managers(backend, _watch)
    try:
        yield
    finally:
        if opened:
            _close(backend)


def _close(backend: AnymailBaseBackend) -> None:
    try:
        backend.close()
    except Exception:
        logger.warning("the client of %s could not be closed", backend.esp_name, exc_info=True)


def _limit_timeouts(backend: AnymailBaseBackend, timeout: float) -> None:
    """Have the client of ``backend``, not open yet, wait for ``timeout`` seconds at most."""
    if hasattr(backend, "timeout"):  # of requests: a number, a pair, or None for ever
        own = backend.timeout
        connect, read = own if isinstance(own, tuple) else (own, own)
        backend.timeout = (_least(connect, timeout * _CONNECT_SHARE), _least(read, timeout))
    params = getattr(backend, "client_params", None)
    if getattr(backend, "client", None) is None and params and (config := params.get("config")) is not None:
        shorter = type(config)(
            connect_timeout=_least(config.connect_timeout, timeout * _CONNECT_SHARE),
            read_timeout=_least(config.read_timeout, timeout),
        )
        backend.client_params = {**params, "config": config.merge(shorter)}


def _least(own: float | None, limit: float) -> float:
    return limit if own is None else min(own, limit)
