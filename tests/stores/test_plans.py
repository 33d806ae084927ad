"""What the sweep and the purge ask a database is answered by index probes, however much it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from celery_idempotent.ledger.status import Status
from celery_idempotent.models import LogicalEmail
from celery_idempotent.operations import search
from celery_idempotent.stores.database.store import DatabaseStore
from tests.support.databases import added, place_of, wipe

ROWS = 20_000
RARE = {Status.IN_DOUBT: 1, Status.RELEASED: 2, Status.CLAIMED: 3}
CUT_OFF = 4
"""Place of what is sent and whose body was cut off."""
TABLE = "celery_idempotent_logicalemail"


def status_of(number: int) -> Status:
    rest = number % 2000
    return next((status for status, place in RARE.items() if place == rest), Status.SENT)


def rows() -> Iterator[LogicalEmail]:
    now = datetime.now(timezone.utc)
    for number in range(ROWS):
        status = status_of(number)
        yield LogicalEmail(
            key=f"1:{number:064x}",
            email_type=f"type-{number % 10}",
            status=status.value,
            version=1,
            owner=f"task-{number}",
            deadline=now - timedelta(hours=5) if status is Status.CLAIMED or number % 2000 == CUT_OFF else None,
            unfinished=number % 2000 == CUT_OFF,
            created_at=now - timedelta(days=30),
            updated_at=now - timedelta(minutes=number),
        )


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def alias(request: Any, django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A database of each kind with twenty thousand emails, nearly all of them done."""
    with django_db_blocker.unblock(), added(f"plans-{request.param}", place_of(request)) as name:
        wipe(name)  # the servers are shared
        LogicalEmail.objects.using(name).bulk_create(rows(), batch_size=500)
        # A server analyses its tables by itself in time; SQLite never does.
        analyse = {"mysql": f"ANALYZE TABLE {TABLE}", "postgresql": "ANALYZE"}.get(connections[name].vendor)
        if analyse:
            with connections[name].cursor() as cursor:
                cursor.execute(analyse)
        yield name


WORK: dict[str, Callable[[str], Any]] = {
    "due": lambda alias: DatabaseStore(lambda: alias).due(),
    "purge": lambda alias: DatabaseStore(lambda: alias).purge(older_than=13 * 86400, limit=50),
    "doubts": lambda alias: search.keys_in_doubt(100),
    "stuck": lambda alias: list(LogicalEmail.objects.using(alias).stuck(3600)[:100]),
    "unfinished": lambda alias: list(LogicalEmail.objects.using(alias).unfinished(3600)[:100]),
    "unfinished, counted": lambda alias: LogicalEmail.objects.using(alias).unfinished(3600).count(),
}


def plan_of(alias: str, sql: str) -> list[str]:
    sqlite = connections[alias].vendor == "sqlite"
    with connections[alias].cursor() as cursor:
        cursor.execute(("EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN ") + sql)
        return [" ".join(map(str, row)) for row in cursor.fetchall()]


def scans(vendor: str, line: str) -> bool:
    """Tell whether this line of a plan reads the whole table, or all that is done."""
    if vendor == "mysql":
        return TABLE in line and " ALL " in line
    if vendor == "postgresql":
        return "Seq Scan" in line
    return "SCAN" in line


def probes_deadlines(vendor: str, line: str) -> bool:
    """Tell whether this line of a plan reads from an index what has a status and a deadline alone."""
    if vendor == "mysql":
        return "celery_idempotent_due" in line and " range " in line
    if vendor == "postgresql":
        return "Index Cond" in line and "deadline" in line
    return "celery_idempotent_due (status=? AND deadline<?)" in line


@pytest.mark.parametrize("work", WORK)
def test_no_scan(alias: str, work: str, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Neither of the table nor of the many emails that are sent."""
    monkeypatch.setattr(search, "ledger_alias", lambda: alias)
    monkeypatch.setattr(search, "has_tables", lambda: True)
    with CaptureQueriesContext(connections[alias]) as queries:
        assert WORK[work](alias), "there has to be something to find"
    asked = [query["sql"] for query in queries if query["sql"].startswith("SELECT") and TABLE in query["sql"]]
    assert asked
    for sql in asked:
        plan = plan_of(alias, sql)
        assert not [line for line in plan if scans(connections[alias].vendor, line)], plan
        if work.startswith("unfinished"):
            assert any(probes_deadlines(connections[alias].vendor, line) for line in plan), plan
        if work == "purge" and "updated_at" in sql and "LIMIT" in sql:
            assert "updated_at" in " ".join(plan), plan
