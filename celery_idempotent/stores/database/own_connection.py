"""The ledger's own connection to its database, which commits whatever the caller's does.

Imports no model: tasks are imported before Django's apps are ready.
"""

from __future__ import annotations

from django.db import connections

from ...compat import is_forbidden_by_testcase, is_in_testcase
from ...conf import conf

OWN_ALIAS = "celery_idempotent"


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
    forbidden = is_in_testcase(connections[base]) or is_forbidden_by_testcase(connections[OWN_ALIAS])
    return base if forbidden else OWN_ALIAS
