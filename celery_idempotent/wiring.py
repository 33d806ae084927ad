"""Settings to objects: the one place that knows concrete stores and connections."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery import Celery, current_app
from celery.app.backends import by_url
from celery.exceptions import ImproperlyConfigured as CeleryImproperlyConfigured
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from .conf import conf
from .core.ledger import Ledger
from .core.store import Store

if TYPE_CHECKING:
    from .stores.mirror import Mirror
    from .stores.redis import RedisStore

OWN_ALIAS = "celery_idempotent"


def get_ledger(app: Celery | None = None, eager: bool = False) -> Ledger:
    """Return the ledger that the settings ask for; for an ``eager`` task, one that joins its caller.

    ``app`` is the Celery app whose result backend ``LEDGER="auto"`` follows; by default the current one. Raises
    `ImproperlyConfigured` for a ``LEDGER`` that cannot be one.
    """
    name = ledger_name(app)
    which: tuple[Any, ...] = (name, None, eager and name == "database", "")
    if is_redis(name):
        which = (name, app or current_app._get_current_object(), False, conf.namespace)
    _ledger(*which)  # threads that come first together each get the one that they have made; from here on
    return _ledger(*which)  # it is the one that was kept, for all of them


def get_mirror(app: Celery | None = None) -> Mirror | None:
    """Return the mirror in the database, where the ledger is in Redis."""
    if not is_redis(ledger_name(app)):
        return None
    store: Any = get_ledger(app).store
    return _mirror(store)


def ledger_name(app: Celery | None = None) -> str:
    """Return the setting ``LEDGER``, with ``"auto"`` resolved: Redis where Celery keeps its results there."""
    name = conf.ledger
    if name != "auto":
        return name
    backend = str((app or current_app).conf.result_backend or "")
    if backend in ("redis", "rediss", "sentinel"):
        backend += "://"  # Celery takes the bare name as well
    return backend if is_redis(backend) else "database"


def is_redis(name: str) -> bool:
    """Tell whether ``name`` is a URL of Redis, in one of Celery's forms or of a cluster."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.split("+")[0] in ("redis", "rediss", "sentinel")


@lru_cache(maxsize=8)
def _ledger(name: str, app: Celery | None, joining: bool, namespace: str) -> Ledger:
    return Ledger(_store(name, app, joining, namespace))


@lru_cache(maxsize=8)
def _mirror(store: RedisStore) -> Mirror:
    from .stores.mirror import Mirror

    return Mirror(store, ledger_alias)


def _store(name: str, app: Celery | None, joining: bool, namespace: str) -> Store:
    if app is not None:
        from .stores.redis import RedisStore

        options = app.conf.get("result_backend_transport_options") or {}
        prefix = f"{options.get('global_keyprefix', '')}idem{namespace and '-' + namespace}"
        return RedisStore(lambda: _client(name, app), lambda: conf.retention, lambda: conf.redis_wait, prefix)
    if name == "database":
        from .stores.database import DatabaseStore

        return DatabaseStore(ledger_alias, joining)
    if name == "memory://":
        from .stores.memory import MemoryStore

        return MemoryStore()
    if "://" in name:
        raise ImproperlyConfigured(
            f"CELERY_IDEMPOTENT['LEDGER'] is {_without_password(name)!r}, which cannot keep a ledger: that "
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


def _client(url: str, app: Celery) -> Any:
    """Return a client for ``url`` with the connection settings of Celery's own Redis result backend.

    Raises `ImproperlyConfigured` for a URL that Celery or redis-py cannot use.
    """
    try:
        return _connected(url, app)
    except (ValueError, TypeError, AttributeError, CeleryImproperlyConfigured) as error:
        raise ImproperlyConfigured(
            f"the ledger's Redis URL {_without_password(url)!r} cannot be used: {_said(error, url)}"
        ) from None


def _connected(url: str, app: Celery) -> Any:
    scheme, _, rest = url.partition("://")
    if scheme in ("redis+cluster", "rediss+cluster"):
        from redis.cluster import RedisCluster

        return RedisCluster.from_url(f"{scheme.partition('+')[0]}://{rest}", **_timeouts(app))
    options = app.conf.get("result_backend_transport_options") or {}
    if scheme == "sentinel" and not options.get("master_name"):
        raise ValueError("result_backend_transport_options has no 'master_name'")
    backend, where = by_url(url, app.loader)
    return backend(app=app, url=where).client


def _timeouts(app: Celery) -> dict[str, float]:
    names = ("socket_timeout", "socket_connect_timeout")
    given = {name: app.conf.get(f"redis_{name}") for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _without_password(url: str) -> str:
    """Return ``url`` to be shown: without its login, whatever characters that has, and without its query."""
    return re.sub(r"\?.*", "?***", re.sub(r"//.*@", "//***@", url))


def _said(error: Exception, url: str) -> str:
    """Return what ``error`` says, but for what it quotes of ``url``: with a / in a password, that is a port."""
    return re.sub(r"'([^']*)'", lambda quoted: "'***'" if quoted[1] in url else quoted[0], str(error))


def add_own_connection() -> None:
    """Give the ledger a second connection to its database, which commits whatever the caller's does.

    Called by `AppConfig.ready`. Not for SQLite, where a second writer waits for the first one forever.
    """
    base = connections.settings.get(conf.database)
    if base is None or OWN_ALIAS in connections.settings or base["ENGINE"].endswith("sqlite3"):
        return
    own = {**base, "TEST": {**base.get("TEST", {}), "MIRROR": conf.database}}
    # A compare-and-swap has to see what others have just committed.
    options = {name: value for name, value in base.get("OPTIONS", {}).items() if name != "isolation_level"}
    connections.settings[OWN_ALIAS] = {
        **own,
        "ATOMIC_REQUESTS": False,
        "AUTOCOMMIT": True,
        "OPTIONS": options,
    }


def ledger_alias() -> str:
    """Return the alias that the ledger writes on now: its own, or the caller's where it has to be that.

    Under Django's test cases the own connection would see nothing of the test's transaction, or is forbidden.
    """
    base = conf.database
    if OWN_ALIAS not in connections.settings or connections.settings[OWN_ALIAS]["ENGINE"].endswith("sqlite3"):
        return base
    if any(getattr(block, "_from_testcase", False) for block in connections[base].atomic_blocks):
        return base
    if type(connections[OWN_ALIAS].connect).__name__ == "_DatabaseFailure":  # forbidden by a test case
        return base
    return OWN_ALIAS
