"""The connection that the ledger writes on: what may be open there, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, DatabaseError, DataError, IntegrityError, connections
from django.db import Error as DjangoDatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from ...compat import is_in_testcase
from ...exceptions import LedgerUnavailable
from ...ledger.entry import Entry
from ...models import Delivery, LogicalEmail, OutboxMessage, SendAttempt


def open_transaction(alias: str) -> str | None:
    """Return the alias of a connection that holds a transaction open on the SQLite file of ``alias``."""
    database = _file(connections[alias])
    for other in connections.all(initialized_only=True):
        if other.vendor != "sqlite" or _file(other) != database:
            continue
        if other.in_atomic_block and not is_in_testcase(other):
            return str(other.alias)
    return None


def _file(connection: BaseDatabaseWrapper) -> str:
    name = str(connection.settings_dict["NAME"])
    return name if name.startswith("file:") or name == ":memory:" else os.path.abspath(name)


@contextmanager
def translated(alias: str) -> Iterator[None]:
    """Turn errors of the database into `LedgerUnavailable`."""
    try:
        yield
    except (IntegrityError, DataError):
        raise  # not an outage: trying again would meet it again
    except DjangoDatabaseError as error:
        _drop(alias)
        raise LedgerUnavailable(_explain(alias, error)) from error


def cannot_insert(entry: Entry, refusal: IntegrityError | None) -> LedgerUnavailable:
    """Return the error for a key that is neither written nor there: the tables are not as they should be."""
    why = str(refusal).strip().partition("\n")[0]
    return LedgerUnavailable(
        f"{entry.key} cannot be inserted, and is not there either: {why}. Do the tables fit this version? "
        "`manage.py idempotency doctor` tells. Nothing was sent; the task is tried again"
    )


def _drop(alias: str) -> None:
    """Close a connection that an error left unusable, so that the next try opens a new one."""
    connection = connections[alias]
    if connection.in_atomic_block:
        return
    try:
        connection.close_if_unusable_or_obsolete()
    except DatabaseError:
        connection.connection = None


def _explain(alias: str, error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    missing = ("no such table", "does not exist", "doesn't exist")
    names = [model._meta.db_table for model in (LogicalEmail, Delivery, SendAttempt, OutboxMessage)]
    table = next((name for name in names if name in text), None)
    if table and any(words in text for words in missing):
        # The ledger's own alias is a copy of another, which is the one that people know.
        base = connections[alias].settings_dict.get("TEST", {}).get("MIRROR") or alias
        where = "" if base == DEFAULT_DB_ALIAS else f" --database={base}"
        return f"database {base!r} has no table {table}: run `manage.py migrate{where}`"
    return f"the ledger in database {alias!r} does not answer: {text}"
