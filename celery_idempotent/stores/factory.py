"""Make the ledger from the settings: the one place that knows the concrete stores."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from celery import Celery
from celery.app import app_or_default
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import conf
from ..ledger.ledger import Ledger
from ..ledger.store import Store
from .database.own_connection import ledger_alias
from .redis.client import make_client, without_password


def get_ledger(app: Celery | None = None, eager: bool = False) -> Ledger:
    """Return the ledger that the settings ask for; for an ``eager`` task, one that joins its caller.

    ``app`` is the Celery app whose result backend ``LEDGER="auto"`` follows; by default the current one. Raises
    `ImproperlyConfigured` for a ``LEDGER`` that cannot be one.
    """
    name = ledger_name(app)
    which: tuple[Any, ...] = (name, None, eager and name == "database", "")
    if is_redis(name):
        which = (name, app_or_default(app), False, conf.namespace)
    _ledger(*which)  # threads that come first together each get the one that they have made; from here on
    return _ledger(*which)  # it is the one that was kept, for all of them


def ledger_name(app: Celery | None = None) -> str:
    """Return the setting ``LEDGER``, with ``"auto"`` resolved: Redis where Celery keeps its results there."""
    name = conf.ledger
    if name != "auto":
        return name
    backend = str(app_or_default(app).conf.result_backend or "")
    if backend in ("redis", "rediss", "sentinel"):
        backend += "://"  # Celery takes the bare name as well
    return backend if is_redis(backend) else "database"


def is_redis(name: str) -> bool:
    """Tell whether ``name`` is a URL of Redis, in one of Celery's forms or of a cluster."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.split("+")[0] in ("redis", "rediss", "sentinel")


def forget_ledgers() -> None:
    """Make each ledger anew when it is asked for next; one in memory loses its entries. For tests."""
    _ledger.cache_clear()


@lru_cache(maxsize=8)
def _ledger(name: str, app: Celery | None, joining: bool, namespace: str) -> Ledger:
    return Ledger(_store(name, joining)) if app is None else _in_redis(name, app, namespace)


def _in_redis(url: str, app: Celery, namespace: str) -> Ledger:
    """Return a ledger in Redis with its mirror in the database."""
    from .database.mirror import DatabaseMirror
    from .redis.store import RedisStore

    options = app.conf.get("result_backend_transport_options") or {}
    prefix = f"{options.get('global_keyprefix', '')}idem{namespace and '-' + namespace}"
    store = RedisStore(lambda: make_client(url, app), lambda: conf.retention, lambda: conf.redis_wait, prefix)
    return Ledger(store, DatabaseMirror(store, ledger_alias))


def _store(name: str, joining: bool) -> Store:
    if name == "database":
        from .database.store import DatabaseStore

        return DatabaseStore(ledger_alias, joining)
    if name == "memory://":
        from .memory import MemoryStore

        return MemoryStore()
    if "://" in name:
        raise ImproperlyConfigured(
            f"CELERY_IDEMPOTENT['LEDGER'] is {without_password(name)!r}, which cannot keep a ledger: that "
            "needs entries which every worker sees and which are changed by compare-and-swap. Use 'database', "
            "or a redis://, rediss:// or sentinel:// URL"
        )
    try:
        factory: Callable[[], Store] = import_string(name)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"CELERY_IDEMPOTENT['LEDGER'] is {name!r}; it can be 'auto', 'database', 'memory://', a Redis URL "
            "or the dotted path of a callable that returns a Store"
        ) from error
    return factory()
