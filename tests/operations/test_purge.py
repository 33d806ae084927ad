"""Purge: what may go, and what never does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import InterventionRefused, Status
from celery_idempotent.ledger.entry import After
from celery_idempotent.models import LogicalEmail
from celery_idempotent.operations import purge
from celery_idempotent.stores import factory
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import FakeClock, make_entry
from tests.operations.kept import task

DAY = timedelta(days=1)
FINISHED = (Status.SENT, Status.FAILED, Status.CANCELLED)


@pytest.fixture
def clock(memory_ledger: Any) -> FakeClock:
    """That of an empty ledger, standing still."""
    memory_ledger.store.clock = clock = FakeClock()
    return clock


def fill(store: Any, clock: FakeClock) -> None:
    """An entry of each status, 90 days old, and one of each that is new."""
    for age, name in ((90, "old"), (0, "new")):
        for status in Status:
            store.insert(make_entry(f"{name}-{status.value}", status=status, deadline=After(9)))
        clock.forward(age * 86400)


def test_a_purge_takes_what_is_finished_and_old(app: Celery, memory_ledger: Any, clock: FakeClock) -> None:
    """In batches; in flight, released and in doubt stay whatever their age, and so does what is young."""
    task(app)
    fill(memory_ledger.store, clock)
    assert purge.purge(dry_run=True) == 3
    assert len(memory_ledger.store.keys()) == 14
    assert purge.purge(batch=1) == 3
    gone = {f"old-{s.value}" for s in Status} | {f"new-{s.value}" for s in Status}
    gone -= set(memory_ledger.store.keys())
    assert gone == {f"old-{status.value}" for status in FINISHED}
    assert purge.purge() == 0


@pytest.mark.parametrize("age", [timedelta(days=-1), timedelta(0), timedelta(hours=2)])
def test_an_age_at_which_duplicates_may_still_come(
    app: Celery, memory_ledger: Any, clock: FakeClock, age: timedelta
) -> None:
    """Negative, zero or too short: refused whatever the reason, and nothing goes."""
    task(app)
    fill(memory_ledger.store, clock)
    for force in ("", "the project ends"):
        with pytest.raises(InterventionRefused, match="visibility_timeout"):
            purge.purge(age, force=force)
    assert len(memory_ledger.store.keys()) == 14


@pytest.mark.parametrize("force", ["", " "])
def test_an_age_under_the_retention_needs_a_reason(
    app: Celery, memory_ledger: Any, clock: FakeClock, force: str
) -> None:
    """P1: an outbox, or a window that nobody here knows, may count on it. The refusal says what to do."""
    task(app)
    fill(memory_ledger.store, clock)
    for dry_run in (True, False):
        with pytest.raises(InterventionRefused, match=r"count on RETENTION \(90 days.*--force REASON"):
            purge.purge(89 * DAY, dry_run, force=force)
    assert len(memory_ledger.store.keys()) == 14


def test_a_reason_is_logged_with_the_age(
    app: Celery, memory_ledger: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever looks for an email that was sent twice finds who let it be forgotten; addresses are masked."""
    task(app)
    fill(memory_ledger.store, clock)
    assert purge.purge(89 * DAY, dry_run=True, force="asked by ann@example.com") == 3
    assert not caplog.messages, "nothing has gone"
    assert purge.purge(89 * DAY, force="asked by ann@example.com") == 3
    assert caplog.messages == [
        "purge under RETENTION, of what is 89 days, 0:00:00 old: asked by a***@example.com"
    ]


@pytest.mark.parametrize("force", ["", "the project ends"])
def test_nothing_goes_inside_its_window(app: Celery, memory_ledger: Any, force: str) -> None:
    """The longest window of all tasks counts, whatever the reason."""
    task(app, window=timedelta(days=100))
    with pytest.raises(InterventionRefused, match="the window of kept"):
        purge.purge(timedelta(days=99), force=force)
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
    factory.get_ledger().show(entry)
    row = LogicalEmail.objects.get(key=key)
    LogicalEmail.objects.filter(pk=row.pk).update(updated_at=row.updated_at - days * DAY)


def test_after_the_retention_everything_goes(kept_in: Any) -> None:
    """Or what tasks leave behind that are no more would stay for ever."""
    remembered(kept_in, "k1", "a task that is no more", 91)
    assert purge.purge() == 1


def test_with_a_reason_what_is_younger_goes(kept_in: Any) -> None:
    """But what is younger than that, or waits for somebody, stays even then."""
    remembered(kept_in, "k1", "kept", 31)
    remembered(kept_in, "k2", "a task that is no more", 31)
    remembered(kept_in, "k3", "kept", 29)
    remembered(kept_in, "k4", "kept", 31, Status.IN_DOUBT)
    with pytest.raises(InterventionRefused):
        purge.purge(30 * DAY)
    assert LogicalEmail.objects.count() == 4
    assert purge.purge(30 * DAY, force="the project ends") == 2
    assert set(LogicalEmail.objects.values_list("key", flat=True)) == {"k3", "k4"}


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
    clock = FakeClock()
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
    assert purge.purge(timedelta(0), batch=1, app=app, force="a test") == 5
    assert store.client.info("commandstats")["cmdstat_scan"]["calls"] == 1
