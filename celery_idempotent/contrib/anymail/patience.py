"""How long a client library waits: no request may still begin when others act on the deadline."""

from __future__ import annotations

from typing import Any

CONNECT_SHARE = 0.25
"""Part of the send timeout for the connection, which is counted once for each address and for TLS."""


def bound(backend: Any, timeout: float) -> None:
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
