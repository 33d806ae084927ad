"""The database store on real databases, with real commits and real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.test.utils import CaptureQueriesContext

from celery_idempotent.exceptions import LedgerUnavailable, UnsafeTransaction
from celery_idempotent.ledger.entry import After, Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.ledger.store import Store
from celery_idempotent.models import LogicalEmail, SendAttempt
from celery_idempotent.stores.database.own_connection import OWN_ALIAS, add_own_connection
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.testing import KEY, StoreConformance, hold, make_attempt, make_entry
from tests.support.databases import added, place_of, wipe


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def alias(request: Any, django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A database of each kind, with the ledger's tables."""
    database = place_of(request, transaction_mode="IMMEDIATE")
    with django_db_blocker.unblock(), added(request.param, database) as name:
        yield name


@pytest.fixture
def store(alias: str) -> Iterator[Store]:
    """An empty store on it; threads close their connections at the end."""
    wipe(alias)
    yield DatabaseStore(lambda: alias)
    connections[alias].close()


class _ClosingStore(DatabaseStore):
    """Closes the connection of the thread after each call: threads of the race do not do it themselves."""

    def insert(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().insert(*args, **kwargs)
        finally:
            connections[self._alias()].close()

    def swap(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().swap(*args, **kwargs)
        finally:
            connections[self._alias()].close()


class TestDatabaseStore(StoreConformance):
    """Conforms on every vendor."""

    @pytest.fixture
    def store(self, alias: str) -> Store:
        wipe(alias)
        return _ClosingStore(lambda: alias)


def test_attempts_keep_their_start_and_get_their_end(store: Store, alias: str) -> None:
    """P5: the row is there before the hand-over, and is finished after it, never doubled."""
    entry = store.insert(make_entry()).entry
    begun = store.swap(replace(entry, attempts=1), entry.version, make_attempt())
    assert begun is not None
    row = SendAttempt.objects.using(alias).get()
    assert row.ended_at is None
    store.swap(begun.entry, begun.entry.version, make_attempt(ended_at=After()))
    again = SendAttempt.objects.using(alias).get()
    assert again.started_at == row.started_at
    assert again.ended_at is not None
    assert again.ended_at >= again.started_at


def test_constraints_refuse_what_the_core_never_writes(store: Store, alias: str) -> None:
    """An unknown status, or an entry in flight without a deadline, cannot be stored by anybody."""
    store.insert(make_entry())
    rows = LogicalEmail.objects.using(alias)
    for change in ({"status": "nonsense"}, {"deadline": None}):
        with pytest.raises((IntegrityError, DatabaseError)):
            rows.update(**change)
    assert rows.get().status == Status.CLAIMED


def test_a_value_that_cannot_be_written_is_no_outage(store: Store) -> None:
    """P6: the database's own error, once; as an outage it would be tried again and again."""
    entry = store.insert(make_entry()).entry
    with pytest.raises(IntegrityError):
        store.swap(replace(entry, fingerprint=None), entry.version)  # type: ignore[arg-type]
    found = store.get(KEY)
    assert found is not None
    assert found.entry == entry


def test_sqlite_refuses_a_write_inside_an_open_transaction(store: Store, alias: str) -> None:
    """A second writer on the same file would wait for ever: a clear error instead, before anything goes out."""
    if connections[alias].vendor != "sqlite":
        with transaction.atomic(using=alias):
            assert store.insert(make_entry()).inserted
        return
    with transaction.atomic(using=alias), pytest.raises(UnsafeTransaction, match="Nothing was sent"):
        store.insert(make_entry())
    assert store.get(KEY) is None


def test_missing_tables_are_named(alias: str, store: Store) -> None:
    """A database without the migrations says what to run, as an error that is tried again."""
    from django.core.management import call_command

    call_command("migrate", "celery_idempotent", "zero", database=alias, verbosity=0)
    try:
        with pytest.raises(LedgerUnavailable, match="migrate"):
            store.get(KEY)
    finally:
        call_command("migrate", "celery_idempotent", database=alias, verbosity=0)


def test_debug_logging_of_sql_works(store: Store, settings: Any) -> None:
    """With DEBUG, Django formats every statement with its parameters once more."""
    settings.DEBUG = True
    stored = store.insert(make_entry())
    assert store.get(KEY) is not None
    assert store.swap(stored.entry, stored.entry.version) is not None


@pytest.mark.parametrize("alias", ["postgres"], indirect=True)
def test_statements_on_postgresql(alias: str, store: Store) -> None:
    """Claim 1, duplicate 1, hand-over 2, complete 1: whatever the number of recipients, and no BEGIN."""
    ledger, policy = Ledger(store), Policy()
    claimant = Claimant(KEY, "confirmation", "task-1")
    targets = [("0", Recipient(f"{n:064x}", f"p{n}***@example.com")) for n in range(50)]
    replies = dict.fromkeys(targets, Reply(DeliveryStatus.ACCEPTED, 250))

    def counted(work: Callable[[], Any]) -> tuple[int, Any]:
        with CaptureQueriesContext(connections[alias]) as queries:
            value = work()
        return len(queries), value

    claim, outcome = counted(lambda: ledger.claim(claimant, policy))
    begin, entry = counted(lambda: hold(ledger, outcome.entry, claimant, policy).begin(targets, "<m@x>"))
    settle, entry = counted(lambda: hold(ledger, entry, claimant, policy).settle(replies, "<m@x>"))
    complete, entry = counted(lambda: hold(ledger, entry).complete({"ok": 1}))
    duplicate, outcome = counted(lambda: ledger.claim(replace(claimant, task_id="task-2"), policy))
    assert (claim, begin + settle, complete, duplicate) == (1, 2, 1, 1)
    assert outcome.entry.result == {"ok": 1}
    assert len(outcome.entry.deliveries) == 50
    opaque, _ = counted(lambda: ledger.claim(replace(claimant, key="other"), Policy(opaque=True)))
    assert opaque == 1
    assert SendAttempt.objects.using(alias).count() == 2


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_without_time_zones(alias: str, store: Store, settings: Any, zone: str) -> None:
    """USE_TZ=False: times are naive in the database's columns, and aware UTC to the ledger all the same."""
    settings.TIME_ZONE, settings.USE_TZ = zone, False
    connections[alias].close()
    for name in ("timezone", "timezone_name"):
        connections[alias].__dict__.pop(name, None)
    ledger, claimant, policy = Ledger(store), Claimant(KEY, "confirmation", "task-1"), Policy()
    entry = ledger.claim(claimant, policy).entry
    assert abs(entry.created_at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert abs(entry.deadline - entry.created_at - timedelta(seconds=60)) < timedelta(seconds=1)
    busy = ledger.claim(replace(claimant, task_id="task-2"), policy)
    assert 0 < busy.retry_after <= 60
    hold(ledger, entry).complete(None)
    found = store.get(KEY)
    assert found is not None
    assert found.entry.begun_at == entry.begun_at


def test_a_row_that_the_table_refuses_is_no_key_that_is_there(alias: str, store: Store) -> None:
    """A column that only a newer version fills: said so, and tried again, as while the ledger is down."""
    table = LogicalEmail._meta.db_table
    with connections[alias].cursor() as cursor:
        if connections[alias].vendor == "sqlite":
            cursor.execute(
                f"CREATE TRIGGER newer BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'NOT NULL'); END"
            )
        else:
            cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT newer CHECK (version > 1)")
    try:
        with pytest.raises(LedgerUnavailable, match=r"is not there either: .*Do the tables fit"):
            store.insert(make_entry())
    finally:
        with connections[alias].cursor() as cursor:
            if connections[alias].vendor == "sqlite":
                cursor.execute("DROP TRIGGER newer")
            else:
                cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT newer")
    assert store.insert(make_entry()).inserted


def test_a_transaction_level_of_the_project_is_not_the_ledgers(settings: Any) -> None:
    """A compare-and-swap under REPEATABLE READ would not see what others have committed."""
    base = {"ENGINE": "django.db.backends.postgresql", "NAME": "x", "OPTIONS": {"isolation_level": 3, "a": 1}}
    known = dict(connections.settings)
    try:
        connections.settings.pop(OWN_ALIAS, None)
        connections.settings["default"] = base
        add_own_connection()
        assert connections.settings[OWN_ALIAS]["OPTIONS"] == {"a": 1}
    finally:
        connections.settings.clear()
        connections.settings.update(known)


def test_a_purge_leaves_alone_what_a_claim_is_changing(store: Store, alias: str) -> None:
    """An old entry that is being claimed for another generation is in flight as soon as that commits."""
    if connections[alias].vendor == "sqlite":
        assert store.purge(older_than=-1) == 0  # one writer at a time: there is no meanwhile
        return
    ledger = Ledger(store)
    old = store.insert(make_entry(status=Status.SENT, deadline=None)).entry
    begun, purged = threading.Event(), threading.Event()

    def claim() -> None:
        try:
            with transaction.atomic(using=alias):
                wanted = replace(old, status=Status.CLAIMED, deadline=After(60), generation=2)
                assert ledger.store.swap(wanted, old.version)
                begun.set()
                purged.wait(2)
        finally:
            connections[alias].close()

    with ThreadPoolExecutor(1) as pool:
        claimed = pool.submit(claim)
        assert begun.wait(30)
        gone = store.purge(older_than=-1)
        purged.set()
        claimed.result(30)
    found = store.get(KEY)
    assert found is not None
    assert (gone, found.entry.status) == (0, Status.CLAIMED)


def test_a_purge_of_any_size_in_statements_that_every_database_takes(store: Store, alias: str) -> None:
    """SQLite counts the variables of a statement, to 32,766 of them in many builds."""
    then = datetime.now(timezone.utc) - timedelta(days=1)
    row = {
        "email_type": "t",
        "status": "sent",
        "version": 1,
        "owner": "o",
        "created_at": then,
        "updated_at": then,
    }
    LogicalEmail.objects.using(alias).bulk_create(
        [LogicalEmail(key=f"1:{n:064x}", **row) for n in range(2500)], batch_size=500
    )
    numbers = []

    def counted(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        numbers.append(len(params or ()))
        return execute(sql, params, many, context)

    with connections[alias].execute_wrapper(counted):
        assert store.purge(older_than=3600, limit=2200) == 2200
    assert max(numbers) <= 1000
    assert LogicalEmail.objects.using(alias).count() == 300
