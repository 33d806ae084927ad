"""The outbox's rows on real databases: relays side by side, and statements that probe an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from celery_idempotent.models import LogicalEmail, OutboxMessage
from celery_idempotent.outbox import rows as outbox_rows
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.testing import race
from tests.stores.probing import analyse, probes, told
from tests.support.databases import added, place_of, wipe
from tests.support.hostclock import host_clock


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def database(request: Any, django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A database of each kind, with the outbox's table."""
    place = place_of(request, init_command="PRAGMA journal_mode=wal")
    with django_db_blocker.unblock(), added(f"outbox-{request.param}", place) as name:
        yield name


@pytest.fixture
def alias(database: str) -> Iterator[str]:
    """It, empty."""
    wipe(database)
    yield database
    connections[database].close()


def rows(*task_ids: str, **values: Any) -> list[OutboxMessage]:
    return [
        OutboxMessage(**{"task_id": i, "task": "t", "key": f"k-{i}", "payload": "{}", **values})
        for i in task_ids
    ]


def filled(alias: str, number: int) -> list[str]:
    """Write ``number`` rows that are due, the first one longest, and return their task ids."""
    ids = [f"task-{n:05}" for n in range(number)]
    outbox_rows.add(alias, rows(*ids))
    begin = datetime(2026, 1, 1, tzinfo=timezone.utc)
    found = list(outbox_rows.rows_of(alias))
    for row in found:
        row.due_at = begin + timedelta(seconds=int(row.task_id[5:]))
    outbox_rows.rows_of(alias).bulk_update(found, ["due_at"], batch_size=400)
    return ids


def test_rows_belong_to_the_callers_transaction(alias: str) -> None:
    """A rollback takes them back; what is committed is due after a short grace, by the database's clock."""
    with transaction.atomic(using=alias):
        outbox_rows.add(alias, rows("a", "b"))
        transaction.set_rollback(True, using=alias)
    assert outbox_rows.rows_of(alias).count() == 0
    outbox_rows.add(alias, rows("c"))
    row = outbox_rows.rows_of(alias).get()
    assert abs(row.created_at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert row.due_at - row.created_at == timedelta(seconds=outbox_rows.GRACE)
    assert outbox_rows.take(alias, 10) == []


def test_the_oldest_are_taken_first_and_held(alias: str) -> None:
    """What one relay has in hand no other gets, and it is due again when that relay dies."""
    ids = filled(alias, 5)
    assert [row.task_id for row in outbox_rows.take(alias, 3)] == ids[:3]
    assert [row.task_id for row in outbox_rows.take(alias, 3)] == ids[3:]
    assert outbox_rows.take(alias, 3) == []
    held = outbox_rows.rows_of(alias).first()
    assert timedelta(0) < held.due_at - datetime.now(timezone.utc) <= timedelta(seconds=outbox_rows.HOLD)


def test_a_relay_takes_what_it_knows_and_what_nobody_seems_to_know(alias: str) -> None:
    """Of its own tasks what is due; of others only what has been due for long, which nobody else took."""
    outbox_rows.add(alias, rows("mine", "late") + rows("theirs", "strange", task="other"))
    every, mine = outbox_rows.rows_of(alias), outbox_rows.of_tasks(["t", "unused"])
    every.update(due_at=F("created_at"))
    every.filter(task_id__in=["late", "strange"]).update(due_at=F("created_at") - timedelta(minutes=20))
    nobodys = outbox_rows.of_unknown_tasks(alias, ["t", "unused"], 900)
    assert [row.task_id for row in outbox_rows.take(alias, 10, nobodys)] == ["strange"]
    assert [row.task_id for row in outbox_rows.take(alias, 1, mine)] == ["late"]
    assert [row.task_id for row in outbox_rows.take(alias, 10, mine)] == ["mine"]
    assert [row.task_id for row in outbox_rows.take(alias, 10)] == ["theirs"]
    every.update(due_at=F("created_at") - timedelta(minutes=20))
    assert outbox_rows.take(alias, 10, outbox_rows.of_tasks([])) == []
    assert len(outbox_rows.take(alias, 10, outbox_rows.of_unknown_tasks(alias, [], 900))) == 4


def test_relays_side_by_side_share_the_rows(alias: str) -> None:
    """Each row goes to one of them."""
    ids = filled(alias, 60)

    def take(_: int) -> list[str]:
        taken = []
        try:
            while batch := outbox_rows.take(alias, 4):
                taken += [row.task_id for row in batch]
            return taken
        finally:
            connections[alias].close()

    shares = race(take, 4)
    assert sorted(task_id for share in shares for task_id in share) == ids


def test_a_relay_does_not_wait_for_another(alias: str) -> None:
    """Rows that one is just taking are passed over by the next; on SQLite taking is one statement a row."""
    ids = filled(alias, 4)
    if connections[alias].vendor == "sqlite":
        assert not connections[alias].features.has_select_for_update_skip_locked
        return

    def take(_: int) -> list[str]:
        try:
            return [row.task_id for row in outbox_rows.take(alias, 10)]
        finally:
            connections[alias].close()

    with transaction.atomic(using=alias), ThreadPoolExecutor(1) as pool:
        held = outbox_rows.take(alias, 2)  # its transaction is not over
        others = pool.submit(take, 0)
        assert others.result(timeout=20) == ids[2:]
    assert [row.task_id for row in held] == ids[:2]


def test_what_was_published_waits_longer_each_time(alias: str) -> None:
    """From the publication, or from the ETA where that is later; trouble makes it due again in order of age."""
    filled(alias, 2)
    first, second = outbox_rows.take(alias, 2)
    second.eta = eta = datetime.now(timezone.utc) + timedelta(seconds=100)
    outbox_rows.published(alias, [first, second], lambda tries: 10.0 * tries)
    first, second = outbox_rows.rows_of(alias).order_by("pk")
    assert (first.due_at - first.published_at).total_seconds() == pytest.approx(10, abs=1)
    assert (second.due_at - eta).total_seconds() == pytest.approx(10, abs=1)
    outbox_rows.published(alias, [first], lambda tries: 10.0 * tries)
    first.refresh_from_db(using=alias)
    assert (first.due_at - first.published_at).total_seconds() == pytest.approx(20, abs=1)
    outbox_rows.give_back(alias, [first])
    assert outbox_rows.rows_of(alias).get(due_at=F("created_at")).task_id == first.task_id


@pytest.mark.parametrize("wrong", [timedelta(days=-1), timedelta(days=1)], ids=["behind", "ahead"])
def test_the_hosts_clock_does_not_move_what_waits_for_its_eta(alias: str, wrong: timedelta) -> None:
    """Behind, a relay would look a day too late for what the broker lost; ahead, before its time has come."""
    eta = datetime.now(timezone.utc) + timedelta(hours=1)
    found = rows("later", eta=eta)
    outbox_rows.add(alias, found)
    with host_clock(lambda: datetime.now(timezone.utc) + wrong):
        outbox_rows.published(alias, found, lambda tries: 10.0)
    row = outbox_rows.rows_of(alias).get()
    assert (row.due_at - eta).total_seconds() == pytest.approx(10, abs=5)


def test_an_eta_at_the_end_of_all_calendars(alias: str) -> None:
    """The time to look at it again is one that the database has, or it would be published without an end."""
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
    found = rows("never", eta=last)
    outbox_rows.add(alias, found)
    outbox_rows.published(alias, found, lambda tries: 900.0)
    (row,) = outbox_rows.rows_of(alias)
    assert (row.tries, row.eta) == (1, last)
    assert row.due_at.year > datetime.now(timezone.utc).year + 8


def test_what_cannot_be_published(alias: str) -> None:
    """By task and reason, the most first."""
    outbox_rows.add(alias, rows("a", "b", "c", "d"))
    messages = list(outbox_rows.rows_of(alias).order_by("pk"))
    outbox_rows.wait(alias, messages[1:3], 10.0, "why")
    outbox_rows.wait(alias, messages[3:], 10.0, "other")
    assert outbox_rows.faults(alias, 5) == [("t", "why", 2, "b"), ("t", "other", 1, "d")]
    assert outbox_rows.faults(alias, 1) == [("t", "why", 2, "b")]


def test_any_number_of_rows_in_statements_that_every_database_takes(alias: str) -> None:
    """SQLite limits the variables of a statement, MariaDB its size: never more rows in one than a chunk."""
    many = 2 * outbox_rows.CHUNK + 10
    messages = rows(*(f"task-{n}" for n in range(many)))
    every = outbox_rows.rows_of(alias)
    outbox_rows.add(alias, messages, own=outbox_rows.CHUNK + 1)
    assert every.filter(due_at=F("created_at")).count() == outbox_rows.CHUNK + 9
    lengths: list[int] = []

    def listen(execute: Callable[..., Any], sql: str, params: Any, *more: Any) -> Any:
        lengths.append(len(params or ()))
        return execute(sql, params, *more)

    with connections[alias].execute_wrapper(listen):
        outbox_rows.wait(alias, messages, 100.0, "why")
        assert every.filter(error="why").count() == many
        outbox_rows.give_back(alias, messages)
        assert every.filter(due_at=F("created_at")).count() == many
        outbox_rows.published(alias, messages, lambda tries: 10.0)
        assert every.filter(tries=1, error="").count() == many
        assert outbox_rows.remove(alias, [row.task_id for row in messages]) == many
    assert not every.exists()
    assert outbox_rows.CHUNK <= max(lengths) < outbox_rows.CHUNK + 10


def test_many_rows_are_written_in_one_statement(alias: str) -> None:
    """On a server it is one; SQLite may take fewer rows at once."""
    with CaptureQueriesContext(connections[alias]) as queries:
        outbox_rows.add(alias, rows(*(f"task-{n}" for n in range(250))))
    inserts = [query["sql"] for query in queries if query["sql"].startswith("INSERT")]
    assert len(inserts) <= (4 if connections[alias].vendor == "sqlite" else 1)
    assert outbox_rows.rows_of(alias).count() == 250


def test_every_statement_probes_an_index(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay's, the worker's and the reconciliation's, by EXPLAIN; none reads the table through."""
    ids = filled(alias, 2000)
    entries(alias, 2000)
    analyse(alias)
    messages = list(outbox_rows.rows_of(alias).filter(task_id__in=ids[:3]))
    known = ["t", *(f"task-{n}" for n in range(100))]
    nobodys = outbox_rows.of_unknown_tasks(alias, ["other", "another"], 900)
    work: list[Callable[[], Any]] = [
        lambda: outbox_rows.take(alias, 20),
        lambda: outbox_rows.take(alias, 20, outbox_rows.of_tasks(known)),
        lambda: outbox_rows.take(alias, 20, nobodys),
        lambda: outbox_rows.published(alias, messages, lambda tries: 1.0),
        lambda: outbox_rows.wait(alias, messages, 1.0, "why"),
        lambda: outbox_rows.give_back(alias, messages),
        lambda: outbox_rows.remove(alias, ids[:3]),
        lambda: DatabaseStore(lambda: alias).get_many(["1:00001", "1:00002", "1:00003"]),
    ]
    said = [statement for step in work for statement in told(alias, step)]
    assert len(said) >= 7
    with monkeypatch.context() as patched:
        patched.setattr(connections[alias].features, "has_select_for_update_skip_locked", False)
        said += told(alias, lambda: outbox_rows.take(alias, 2, outbox_rows.of_tasks(known)))
        said += told(alias, lambda: outbox_rows.take(alias, 2, nobodys))
    for sql, plan in said:
        assert probes(connections[alias].vendor, plan), f"{sql}\n{plan}"


def test_what_is_anothers_is_passed_over_by_the_index(alias: str) -> None:
    """Of what is due nothing is for this relay: it reads no further than that, whatever else is in there.

    PostgreSQL may sort what it finds, where it expects next to nothing.
    """
    ids = filled(alias, 2000)
    outbox_rows.rows_of(alias).filter(task_id__gte=ids[50]).update(
        due_at=datetime(2100, 1, 1, tzinfo=timezone.utc)
    )
    analyse(alias)
    for which in (
        outbox_rows.of_tasks(["other", "another"]),
        outbox_rows.of_unknown_tasks(alias, ["t", "other"], 900),
    ):
        for sql, plan in told(alias, lambda which=which: outbox_rows.take(alias, 20, which)):
            assert probes(connections[alias].vendor, plan, in_order=False), f"{sql}\n{plan}"


def test_a_statement_that_reads_the_table_through_is_noticed(alias: str) -> None:
    """The test above can fail."""
    filled(alias, 2000)
    analyse(alias)
    for sql, plan in told(alias, lambda: list(outbox_rows.rows_of(alias).filter(error="x"))):
        assert not probes(connections[alias].vendor, plan), f"{sql}\n{plan}"


def entries(alias: str, number: int) -> None:
    now = datetime.now(timezone.utc)
    LogicalEmail.objects.using(alias).bulk_create(
        [
            LogicalEmail(
                key=f"1:{n:05}", email_type="t", status="sent", version=1, created_at=now, updated_at=now
            )
            for n in range(number)
        ],
        batch_size=500,
    )
