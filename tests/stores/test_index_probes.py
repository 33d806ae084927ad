"""Whatever the size of the ledger, no statement of a worker reads a table from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connections

from bench import ledger_plans
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Duplicate
from celery_idempotent.ledger.policy import Policy
from celery_idempotent.models import LogicalEmail
from celery_idempotent.stores.database.store import DatabaseStore
from tests.support.databases import added, place_of, wipe
from tests.support.filled_ledger import claimant, fill, heard, key, plans, sent
from tests.support.worker import wait_for

ROWS = 20_000
"""Enough for a planner that has a choice to prefer an index."""


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def alias(request: Any, django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A database of each kind with so many sent emails."""
    place = place_of(request, transaction_mode="IMMEDIATE")
    with django_db_blocker.unblock(), added(f"filled-{request.param}", place) as name:
        wipe(name)  # the servers are shared
        fill(name, ROWS)
        yield name
        wipe(name)


def a_new_email(ledger: Ledger) -> None:
    sent(ledger, ROWS + 1)


def a_duplicate(ledger: Ledger) -> None:
    assert isinstance(ledger.claim(claimant(ROWS // 2, "other"), Policy()), Duplicate)


def a_takeover(ledger: Ledger) -> None:
    assert isinstance(ledger.claim(claimant(ROWS + 2), Policy()), Acquired)
    assert isinstance(ledger.claim(claimant(ROWS + 2), Policy()), Acquired)


def a_look(ledger: Ledger) -> None:
    assert ledger.store.get(key(ROWS // 3)) is not None


def a_sweep(ledger: Ledger) -> None:
    ledger.claim(claimant(ROWS + 3), Policy(lease=0.001))
    wait_for(ledger.store.due, 5)


def a_purge(ledger: Ledger) -> None:
    assert ledger.store.purge(older_than=0, limit=10) == 10


@pytest.mark.parametrize("work", [a_new_email, a_duplicate, a_takeover, a_look, a_sweep, a_purge])
def test_index_probes_only(alias: str, work: Callable[[Ledger], None]) -> None:
    """By the database's own plan for the very statements that it was sent."""
    with heard(alias) as statements:
        work(Ledger(DatabaseStore(lambda: alias)))
    assert statements
    assert plans(alias, statements) == []


def test_what_the_benchmark_asks_of_ten_million(alias: str) -> None:
    """The whole of claim, relay, sweep and purge, each of several statements, on a ledger that is smaller."""
    found = ledger_plans.walks(alias, ROWS)
    assert list(found) == ["claim", "relay", "sweep", "purge"]
    assert all(statements >= 3 for statements, _ in found.values())
    assert [walk for _, walks in found.values() for walk in walks] == []


def test_an_index_that_is_read_through_is_noticed(alias: str) -> None:
    """On PostgreSQL too, where the plan calls it an Index Scan as it calls a probe."""
    table = "celery_idempotent_logicalemail"
    quoted = connections[alias].ops.quote_name("key")
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off")
        try:
            found = plans(alias, [(f"SELECT {quoted} FROM {table} ORDER BY {quoted}", None)])
        finally:
            if connections[alias].vendor == "postgresql":
                cursor.execute("SET enable_seqscan = on")
    assert len(found) == 1
    assert table in found[0]


def test_a_statement_without_an_index_is_noticed(alias: str) -> None:
    """So that the test above can fail."""
    table = "celery_idempotent_logicalemail"
    found = plans(alias, [(f"SELECT * FROM {table} WHERE label = %s", ["order=7"])])
    assert len(found) == 1
    assert table in found[0]


@pytest.mark.parametrize("alias", ["postgres"], indirect=True)
def test_a_duplicate_writes_to_no_index(alias: str) -> None:
    """On PostgreSQL the count of arrivals finds room in the row's own page, however old the email is."""
    ledger = Ledger(DatabaseStore(lambda: alias))
    keys = list(LogicalEmail.objects.using(alias).filter(status="sent").values_list("key", flat=True)[::400])
    before = _updates(alias)
    for one in keys:
        assert isinstance(ledger.claim(replace(claimant(0, "other"), key=one), Policy()), Duplicate)
    updates, in_page = (now - then for now, then in zip(_updates(alias), before, strict=True))
    assert updates == in_page == len(keys)


def _updates(alias: str) -> tuple[int, int]:
    """Return how many rows of emails were updated, and how many of them in their own page."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s",
            [LogicalEmail._meta.db_table],
        )
        return cursor.fetchone()
