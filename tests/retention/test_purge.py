"""Purge: what may go, and what never does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import InterventionRefused, Status
from celery_idempotent.ledger.entry import After
from celery_idempotent.models import LogicalEmail, OutboxMessage
from celery_idempotent.operations import purge
from celery_idempotent.operations.relay import TOO_OLD
from celery_idempotent.outbox import enqueue
from celery_idempotent.stores import factory
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import make_entry
from tests.retention.kept import task
from tests.support.clock import Clock

DAY = timedelta(days=1)
FINISHED = (Status.SENT, Status.FAILED, Status.CANCELLED)


@pytest.fixture
def clock(memory_ledger: Any) -> Clock:
    """That of an empty ledger, standing still."""
    memory_ledger.store._clock = clock = Clock()
    return clock


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is enqueued stays in the outbox."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)


def fill(store: Any, clock: Clock) -> None:
    """An entry of each status, 90 days old, and one of each that is new."""
    for age, name in ((90, "old"), (0, "new")):
        for status in Status:
            store.insert(make_entry(f"{name}-{status.value}", status=status, deadline=After(9)))
        clock.forward(age * 86400)


def test_a_purge_takes_what_is_finished_and_old(app: Celery, memory_ledger: Any, clock: Clock) -> None:
    """In batches; in flight, released and in doubt stay whatever their age, and so does what is young."""
    task(app)
    fill(memory_ledger.store, clock)
    assert purge.purge(dry_run=True) == 3
    assert len(memory_ledger.store._entries) == 14
    assert purge.purge(batch=1) == 3
    gone = {f"old-{s.value}" for s in Status} | {f"new-{s.value}" for s in Status}
    gone -= set(memory_ledger.store._entries)
    assert gone == {f"old-{status.value}" for status in FINISHED}
    assert purge.purge() == 0


@pytest.mark.parametrize("age", [timedelta(days=-1), timedelta(0), timedelta(hours=2)])
def test_an_age_at_which_duplicates_may_still_come(
    app: Celery, memory_ledger: Any, clock: Clock, age: timedelta
) -> None:
    """Negative, zero or too short: refused with the reason, and nothing goes."""
    task(app)
    fill(memory_ledger.store, clock)
    with pytest.raises(InterventionRefused, match="visibility_timeout"):
        purge.purge(age)
    assert len(memory_ledger.store._entries) == 14


@pytest.mark.django_db(transaction=True)
def test_nothing_goes_that_a_message_in_the_outbox_may_ask_for(
    app: Celery, clock: Clock, unpublished: None
) -> None:
    """The relay would find nothing in the ledger, publish it again, and it would be sent a second time."""
    kept = task(app)
    kept.apply((1,), task_id=kept.enqueue(1).id)
    kept.enqueue(2)
    clock.forward(10 * 86400)
    newest = OutboxMessage.objects.latest("pk")
    OutboxMessage.objects.exclude(pk=newest.pk).update(tries=3, created_at=newest.created_at - 2 * DAY)
    for dry_run in (True, False):
        with pytest.raises(InterventionRefused, match=r"a message of kept.*Run the relay"):
            purge.purge(DAY, dry_run)
    assert kept.entry_for(1) is not None
    assert purge.purge(3 * DAY) == 1, "older than any message is"
    OutboxMessage.objects.all().delete()
    assert purge.purge(DAY) == 0


@pytest.mark.django_db(transaction=True)
def test_a_message_that_was_cured_hides_no_other(app: Celery, clock: Clock, unpublished: None) -> None:
    """The relay's cure for what is too old lets its time be now, not its age: the next one is as old."""
    kept = task(app)
    first = kept.enqueue(1).id
    kept.enqueue(2)
    kept.apply((2,), task_id="another")
    clock.forward(100 * 86400)
    now = datetime.now(timezone.utc)
    OutboxMessage.objects.update(created_at=now - 99 * DAY, tries=3)
    cure = {found: now for found in ("created_at", "eta") if f"set its {found} to now" in TOO_OLD}
    assert OutboxMessage.objects.filter(task_id=first).update(**cure) == 1
    with pytest.raises(InterventionRefused, match="Run the relay first"):
        purge.purge(DAY)
    assert kept.entry_for(2) is not None, "the relay would have sent it anew"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("row", "cure"),
    [
        (
            {"error": "no task 'gone'"},
            r"no task 'gone'.*using\('default'\)\.filter\(task_id='dead'\)\.delete\(\)",
        ),
        ({"eta": timedelta(days=9)}, "It is to go out at 20.* UTC: until then, purge with a longer age"),
        ({"eta": timedelta(days=-1)}, "Run the relay first"),
        ({}, "Run the relay first. If it stays: .*show 1:k"),
    ],
)
def test_a_message_that_holds_the_purge_up_is_named_with_the_cure(
    app: Celery, memory_ledger: Any, row: dict[str, Any], cure: str
) -> None:
    """One dead message must not block it for ever without a word on how to get rid of it."""
    task(app)
    now = datetime.now(timezone.utc)
    values = {name: now + value if name == "eta" else value for name, value in row.items()}
    old = {"created_at": now - 5 * DAY, "due_at": now}
    OutboxMessage.objects.create(task_id="dead", task="gone", key="1:k", label="n=1", **old, **values)
    with pytest.raises(InterventionRefused, match=rf"a message of gone \(n=1\), enqueued 5 days.* {cure}"):
        purge.purge(2 * DAY)
    assert purge.purge(6 * DAY) == 0


def test_nothing_goes_inside_its_window(app: Celery, memory_ledger: Any) -> None:
    """The longest window of all tasks counts."""
    task(app, window=timedelta(days=100))
    with pytest.raises(InterventionRefused, match="the window of kept"):
        purge.purge(timedelta(days=99))
    assert purge.purge(timedelta(days=100)) == 0


@pytest.fixture(params=["database", "redis"])
def kept_in(request: Any, app: Celery, keep_ledger_in: Any, transactional_db: None) -> Any:
    """The store of a ledger in the database, or in Redis with its mirror there, of a process with one task."""
    keep_ledger_in(request.param)
    task(app)
    return factory.get_ledger(app).store


def remembered(store: Any, key: str, kind: str, days: int, status: Status = Status.SENT) -> None:
    """An entry of the email type ``kind``, unchanged for so long."""
    entry = store.insert(replace(make_entry(key, status=status, deadline=After(9)), email_type=kind)).entry
    if mirror := factory.get_ledger().mirror:
        assert mirror.show(entry)
    row = LogicalEmail.objects.get(key=key)
    LogicalEmail.objects.filter(pk=row.pk).update(updated_at=row.updated_at - days * DAY)


def test_nothing_goes_of_a_type_whose_window_nobody_here_knows(kept_in: Any) -> None:
    """P1: a function of another queue with a window of 60 days, or another project in the same database."""
    remembered(kept_in, "k1", "kept", 31)
    remembered(kept_in, "k2", "statement", 31)
    remembered(kept_in, "k3", "bill", 31, Status.CANCELLED)
    for dry_run in (True, False):
        with pytest.raises(InterventionRefused, match=r"does not know \(bill, statement\).*Import.*90 days"):
            purge.purge(30 * DAY, dry_run)
    assert LogicalEmail.objects.count() == 3
    assert purge.purge(32 * DAY) == 0, "nothing of them is so old"


def test_types_that_a_purge_would_not_touch_do_not_stop_it(kept_in: Any) -> None:
    """What is young, or waits for somebody, stays anyway."""
    remembered(kept_in, "k1", "kept", 31)
    remembered(kept_in, "k2", "statement", 29)
    remembered(kept_in, "k3", "bill", 31, Status.IN_DOUBT)
    assert purge.purge(30 * DAY) == 1
    assert set(LogicalEmail.objects.values_list("key", flat=True)) == {"k2", "k3"}


def test_after_the_retention_everything_goes(kept_in: Any) -> None:
    """Or what tasks leave behind that are no more would stay for ever."""
    remembered(kept_in, "k1", "a task that is no more", 91)
    with pytest.raises(InterventionRefused, match="a task that is no more"):
        purge.purge(89 * DAY)
    assert purge.purge() == 1


def test_many_types_that_nobody_knows_are_not_all_named(kept_in: Any) -> None:
    """The first of them, and that there are more."""
    for number in range(7):
        remembered(kept_in, f"k{number}", f"type-{number}", 31)
    with pytest.raises(InterventionRefused, match=r"\((type-\d, ){4}type-\d and others\)"):
        purge.purge(30 * DAY)


def test_a_process_without_tasks_purges_nothing(memory_ledger: Any) -> None:
    """It does not know the windows."""
    empty = Celery("empty", set_as_current=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(purge, "tasks", lambda app=None: iter(()))
        patch.setattr(purge, "functions", list)
        with pytest.raises(InterventionRefused, match="Import your Celery app"):
            purge.purge(app=empty)


def test_a_store_that_changes_while_it_is_purged(app: Celery) -> None:
    """An entry that was old and is claimed again is young."""
    clock = Clock()
    store = MemoryStore(clock)
    entry = store.insert(make_entry(status=Status.SENT)).entry
    clock.forward(90 * 86400)
    store.swap(entry, entry.version)
    assert store.purge(older_than=86400) == 0


@pytest.mark.process
def test_the_mirror_is_purged_with_the_ledger(app: Celery, keep_ledger_in: Any, db: None) -> None:
    """Redis lets entries expire by itself; nobody else would remove the rows."""
    keep_ledger_in("redis")
    task(app)
    ledger = factory.get_ledger(app)
    mirror = ledger.mirror
    assert mirror is not None
    for status in Status:
        entry = ledger.store.insert(make_entry(status.value, status=status)).entry
        assert mirror.show(entry)
        ledger.store.client.delete(ledger.store.place(entry.key))  # type: ignore[attr-defined]
    old = LogicalEmail.objects.first().updated_at - 91 * DAY  # type: ignore[union-attr]
    LogicalEmail.objects.update(updated_at=old)
    assert purge.purge(dry_run=True) == 3
    assert purge.purge() == 3
    assert LogicalEmail.objects.count() == len(Status) - 3


@pytest.mark.process
def test_a_purge_goes_through_redis_once(app: Celery, keep_ledger_in: Any, db: None, monkeypatch: Any) -> None:
    """However many batches that would be elsewhere: each look at all that is kept costs."""
    keep_ledger_in("redis")
    task(app)
    store: Any = factory.get_ledger(app).store
    for number in range(5):
        store.insert(make_entry(f"k{number}", status=Status.SENT))
    monkeypatch.setattr(purge, "shortest_age", lambda app: (timedelta(0), ""))
    store.client.config_resetstat()
    assert purge.purge(timedelta(0), batch=1, app=app) == 5
    assert store.client.info("commandstats")["cmdstat_scan"]["calls"] == 1
