"""No request outlives the send deadline: its connection is cut then, however slowly its pieces come or go.

The timeouts of `requests` and botocore count for each piece that arrives. Both speak through urllib3, whose
pools say which class of connection they make: here it is one that tells the current `Deadline` what it uses.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from threading import Timer
from typing import Any

from ...mail.smtp.sockets import discard_unsent

_current: ContextVar[Deadline | None] = ContextVar("celery_idempotent_deadline", default=None)


class NotBegun(TimeoutError):
    """Raised when the deadline passes before a request has begun: nothing was sent."""


class Deadline:
    """Ends what is requested inside its ``with`` at ``end``, a moment of `time.monotonic`."""

    def __init__(self, end: float) -> None:
        self.cut = False
        """True if there was a connection at the end: what the client makes of half an answer says nothing."""
        self._passed = False
        self._end_at = end
        self._connections: list[Any] = []
        self._sockets: set[Any] = set()
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

    def uses(self, connection: Any) -> None:
        """Keep what is to be cut, and let it send until then. Raises `NotBegun` if the end has come."""
        self._connections.append(connection)
        if _is_open(connection.sock):  # kept, as it goes to the answer if nothing is to follow that
            self._sockets.add(_bare(connection.sock))
            discard_unsent(_bare(connection.sock))
            # urllib3 would give all of the request as long as it gave the connection.
            connection.sock.settimeout(max(self._end_at - time.monotonic(), 0.0) + 1.0)
        if self._passed:
            raise NotBegun("the send deadline has passed")

    def _end(self) -> None:
        self._passed = True  # before anything is cut: whoever is not in the lists yet finds it
        self.cut = bool(self._sockets)
        open_ones = (connection.sock for connection in self._connections if connection.sock is not None)
        for sock in {*self._sockets, *map(_bare, open_ones)}:
            _hang_up(sock)


def _is_open(sock: Any) -> bool:
    """Tell whether it can be cut: one whose certificate does not match is closed by the time that is raised."""
    return sock is not None and _bare(sock).fileno() >= 0


def _bare(sock: Any) -> Any:
    return getattr(sock, "socket", sock)  # urllib3's own, of TLS within TLS


def _hang_up(sock: Any) -> None:
    try:
        # Not TLS's own shutdown: a reader would go on with what is encrypted as if it were not.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # closed already


class _Watched:
    """A connection of urllib3's, or of `http.client`'s."""

    sock: Any

    def connect(self) -> None:
        self._tell()
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._tell()

    def putrequest(self, *args: Any, **options: Any) -> Any:
        self._tell()
        return super().putrequest(*args, **options)  # type: ignore[misc]

    def _tell(self) -> None:
        if (deadline := _current.get()) is not None:
            deadline.uses(self)


def watch(backend: Any) -> None:
    """Have the connections that the open client of ``backend`` makes from now on know about deadlines."""
    for adapter in getattr(getattr(backend, "session", None), "adapters", {}).values():
        if hasattr(adapter, "poolmanager") and "proxy_manager_for" not in vars(adapter):
            _watch(adapter.poolmanager)
            adapter.proxy_manager_for = _watching(adapter.proxy_manager_for)
    endpoint = getattr(getattr(backend, "client", None), "_endpoint", None)
    http: Any = getattr(endpoint, "http_session", None)  # botocore's
    if hasattr(http, "_manager"):
        _watch(http._manager)
        http._pool_classes_by_scheme = http._manager.pool_classes_by_scheme  # its proxies'


def _watching(manager_for: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: _watch(manager_for(*args, **options))


def _watch(manager: Any) -> Any:
    manager.pool_classes_by_scheme = dict(_watched_pools(manager))
    return manager


def _watched_pools(manager: Any) -> Iterator[tuple[str, Any]]:
    for scheme, pool in manager.pool_classes_by_scheme.items():
        yield scheme, pool if issubclass(pool.ConnectionCls, _Watched) else _watched(pool)


@lru_cache(maxsize=16)
def _watched(pool: Any) -> Any:
    connection = type(pool.ConnectionCls.__name__, (_Watched, pool.ConnectionCls), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


CONNECT_SHARE = 0.25
"""Part of the send timeout for the connection, which is counted once for each address and for TLS."""


def limit_timeouts(backend: Any, timeout: float) -> None:
    """Have the client of ``backend``, not open yet, wait for ``timeout`` seconds at most."""
    if hasattr(backend, "timeout"):  # of requests: a number, a pair, or None for ever
        own = backend.timeout
        connect, read = own if isinstance(own, tuple) else (own, own)
        backend.timeout = (_least(connect, timeout * CONNECT_SHARE), _least(read, timeout))
    params = getattr(backend, "client_params", None)
    if getattr(backend, "client", None) is None and params and (config := params.get("config")) is not None:
        shorter = type(config)(
            connect_timeout=_least(config.connect_timeout, timeout * CONNECT_SHARE),
            read_timeout=_least(config.read_timeout, timeout),
        )
        backend.client_params = {**params, "config": config.merge(shorter)}


def _least(own: float | None, limit: float) -> float:
    return limit if own is None else min(own, limit)
