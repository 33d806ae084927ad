"""Settings to objects: the one place that knows concrete stores and connections."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from .conf import conf
from .core.ledger import Ledger
from .core.store import Store

OWN_ALIAS = "celery_idempotent"
_IN_DATABASE = ("auto", "database")


def get_ledger(eager: bool = False) -> Ledger:
    """Return the ledger that the settings ask for; for an ``eager`` task, one that joins its caller.

    Raises `ImproperlyConfigured` for a ``LEDGER`` that names nothing.
    """
    return _ledger(conf.ledger, joining=eager and conf.ledger in _IN_DATABASE)


@lru_cache(maxsize=8)
def _ledger(name: str, joining: bool) -> Ledger:
    return Ledger(_store(name, joining))


def _store(name: str, joining: bool) -> Store:
    if name in _IN_DATABASE:
        from .stores.database import DatabaseStore

        return DatabaseStore(ledger_alias, joining)
    if name == "memory://":
        from .stores.memory import MemoryStore

        return MemoryStore()
    try:
        factory: Callable[[], Store] = import_string(name)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"CELERY_IDEMPOTENT['LEDGER'] is {name!r}; it can be 'auto', 'database', 'memory://' "
            "or the dotted path of a callable that returns a Store"
        ) from error
    return factory()


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
