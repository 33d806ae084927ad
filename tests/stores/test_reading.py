"""Looking at the ledger writes nothing: it takes no lock, and is allowed in any transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from celery_idempotent.ledger.entry import After
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.testing import ANN, KEY, make_entry
from tests.support.databases import added, wipe

READS: dict[str, Callable[[DatabaseStore], Any]] = {
    "get": lambda store: store.get(KEY),
    "get_many": lambda store: store.get_many([KEY]),
    "due": lambda store: store.due(),
    "naming": lambda store: store.naming(ANN.digest),
    "now": lambda store: store.now(),
    "problems": lambda store: store.problems(),
}


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def alias(request: Any, tmp_path_factory: Any, django_db_setup: None, django_db_blocker: Any) -> Any:
    """A database of each kind with one entry; SQLite locks at the beginning of a transaction."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("reading") / "ledger.sqlite3"
        options = {"timeout": 1, "transaction_mode": "IMMEDIATE"}
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": options}
    else:
        database = request.getfixturevalue(request.param).database
    with django_db_blocker.unblock(), added(request.param, database) as name:
        wipe(name)
        DatabaseStore(lambda: name).insert(make_entry(deadline=After(-1)))
        yield name


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_look_is_one_statement(alias: str, read: Callable[[DatabaseStore], Any]) -> None:
    """Without a transaction around it: SQLite would have to wait for whoever writes."""
    with CaptureQueriesContext(connections[alias]) as queries:
        read(DatabaseStore(lambda: alias))
    assert len(queries) == 1


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_look_is_allowed_in_a_transaction_of_the_callers(
    alias: str, read: Callable[[DatabaseStore], Any]
) -> None:
    """A view under ``ATOMIC_REQUESTS`` may show what the ledger knows."""
    outside = read(DatabaseStore(lambda: alias))
    with transaction.atomic(using=alias):
        inside = read(DatabaseStore(lambda: alias))
    assert type(inside) is type(outside)
    assert not connections[alias].in_atomic_block
