"""Real databases at run time, beside the configured ones: added, migrated, dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management import call_command
from django.db import connections


def place_of(request: Any, **options: Any) -> dict[str, Any]:
    """Return the place of the database that a fixture's ``request`` is parametrized with: a kind, by its name.

    A server is the one that the whole session shares; SQLite's file is new, and has ``options``.
    """
    if request.param != "sqlite":
        return request.getfixturevalue(request.param).database
    name = str(request.getfixturevalue("tmp_path_factory").mktemp("sqlite") / "ledger.sqlite3")
    options = {"timeout": 30, **options}
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}


@contextmanager
def added(alias: str, database: dict[str, Any]) -> Iterator[str]:
    """Add ``database`` to Django's connections under ``alias``, with the ledger's tables."""
    default = connections["default"].settings_dict
    connections.settings[alias] = {**default, "TEST": {}, "OPTIONS": {}, **database}
    try:
        call_command("migrate", "celery_idempotent", database=alias, verbosity=0)
        yield alias
    finally:
        connections[alias].close()
        del connections.settings[alias]
        del connections[alias]


def wipe(alias: str) -> None:
    """Empty the ledger's tables."""
    with connections[alias].cursor() as cursor:
        for table in ("sendattempt", "delivery", "logicalemail", "outboxmessage"):
            cursor.execute(f"DELETE FROM celery_idempotent_{table}")
