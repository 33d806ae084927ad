"""A Redis client for the ledger, with the connection settings of Celery's own result backend."""

from __future__ import annotations

import re
from typing import Any, cast

from celery import Celery
from celery.app.backends import by_url
from celery.exceptions import ImproperlyConfigured as CeleryImproperlyConfigured
from django.core.exceptions import ImproperlyConfigured


def make_client(url: str, app: Celery) -> Any:
    """Return a client for ``url`` with the connection settings of Celery's own Redis result backend.

    Raises `ImproperlyConfigured` for a URL that Celery or redis-py cannot use.
    """
    try:
        return _connected(url, app)
    except (ValueError, TypeError, AttributeError, CeleryImproperlyConfigured) as error:
        raise ImproperlyConfigured(
            f"the ledger's Redis URL {without_password(url)!r} cannot be used: {_without_url_parts(error, url)}"
        ) from None


def _connected(url: str, app: Celery) -> Any:
    scheme, _, rest = url.partition("://")
    if scheme in ("redis+cluster", "rediss+cluster"):
        from redis.cluster import RedisCluster

        return RedisCluster.from_url(f"{scheme.partition('+')[0]}://{rest}", **_timeouts(app))
    options = app.conf.get("result_backend_transport_options") or {}
    if scheme == "sentinel" and not options.get("master_name"):
        raise ValueError("result_backend_transport_options has no 'master_name'")
    backend, where = cast(tuple[type[Any], str], by_url(url, app.loader))
    return backend(app=app, url=where).client


def _timeouts(app: Celery) -> dict[str, float]:
    names = ("socket_timeout", "socket_connect_timeout")
    given = {name: app.conf.get(f"redis_{name}") for name in names}
    return {name: value for name, value in given.items() if value is not None}


def without_password(url: str) -> str:
    """Return ``url`` to be shown: without its login, whatever characters that has, and without its query."""
    return re.sub(r"\?.*", "?***", re.sub(r"//.*@", "//***@", url))


def _without_url_parts(error: Exception, url: str) -> str:
    """Return what ``error`` says, but for what it quotes of ``url``: with a / in a password, that is a port."""
    return re.sub(r"'([^']*)'", lambda quoted: "'***'" if quoted[1] in url else quoted[0], str(error))
