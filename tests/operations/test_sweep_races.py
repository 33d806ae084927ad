"""Sweeps that race hand-overs, duplicates and each other: nothing that is alive is touched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis as client
from celery import Celery
from django.db import connections

from celery_idempotent import ClaimLost, IdempotentEmailTask, Status, Verdict
from celery_idempotent.ledger.deadlines import expire
from celery_idempotent.ledger.entry import After, Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Duplicate, Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.ledger.store import Store
from celery_idempotent.operations import search, sweep
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.stores.redis.store import RedisStore
from celery_idempotent.testing import hold, race
from tests.support.databases import added, place_of, wipe
from tests.support.servers import Redis
from tests.support.tiers import sized

TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250)}


def claimant(number: int, task_id: str = "task-1") -> Claimant:
    return Claimant(f"key-{number}", "held-mail", task_id)


class Watched:
    """Notes each write of a sweep to an entry whose deadline was running."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.touched_alive: list[Any] = []
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def swap(self, entry: Any, version: int, *rest: Any) -> Any:
        before = self.store.get(entry.key)
        written = self.store.swap(entry, version, *rest)
        if written is not None:
            self.writes += 1
            # Still of that version before, so it is what was replaced.
            if before is not None and before.entry.version == version:
                deadline = before.entry.deadline
                if isinstance(deadline, datetime) and deadline > written.now:
                    self.touched_alive.append(before.entry)
        return written


def hand_over(ledger: Ledger, number: int, pause: float) -> Any:
    """The life of one email; with a ``pause``, in seconds, its deadlines pass in its midst."""
    policy = Policy(lease=pause, send_timeout=pause) if pause else Policy(lease=300, send_timeout=300)
    who = claimant(number)
    entry = ledger.claim(who, policy).entry
    time.sleep((number % 3 + number % 5) * pause)
    entry = hold(ledger, entry, who, policy).begin([TARGET], "<m@x>")
    time.sleep((number % 4) * pause)
    entry = hold(ledger, entry, who, policy).settle(ACCEPTED, "<m@x>")
    return hold(ledger, entry).complete(number)


def race_sweep_and_hand_over(
    store: Store, numbers: range, pause: float, close: Callable[[], None] = lambda: None
) -> Watched:
    """Have two sweeps go round and round while four threads hand over; every hand-over has to succeed."""
    watched, stop = Watched(store), threading.Event()
    ledger = Ledger(store)

    def go_round() -> None:
        try:
            while not stop.is_set():
                sweep.Sweep(Ledger(watched)).expire_deadlines()  # type: ignore[arg-type]
        finally:
            close()

    with ThreadPoolExecutor(2) as sweepers, ThreadPoolExecutor(4) as pool:
        sweeps = [sweepers.submit(go_round) for _ in range(2)]
        try:

            def one(number: int) -> Any:
                try:
                    return hand_over(ledger, number, pause if number % 2 else 0)
                finally:
                    close()

            done = list(pool.map(one, numbers))
        finally:
            stop.set()
        for each in sweeps:
            each.result(60)
    for number, entry in zip(numbers, done, strict=True):
        assert (entry.status, entry.result, entry.attempts) == (Status.SENT, number, 1)
        assert [d.status for d in entry.deliveries] == [DeliveryStatus.ACCEPTED]
    assert watched.touched_alive == []
    return watched


def assert_a_sweep_writes(store: Store, pause: float, close: Callable[[], None] = lambda: None) -> None:
    """Race until the sweeps had something to do: on a busy machine a hand-over may be first each time."""
    rounds = (range(start, start + 300) for start in range(0, 6_000, 300))
    assert any(race_sweep_and_hand_over(store, numbers, pause, close).writes for numbers in rounds)


@pytest.mark.timeout(600)
def test_thousands_of_hand_overs_race_two_sweeps() -> None:
    """No hand-over is lost or doubled, and no sweep writes to an entry whose deadline is running.

    Ten thousand of them in the tier `all`.
    """
    hand_overs = sized(test=1_000, all=10_000)
    writes = sum(
        race_sweep_and_hand_over(MemoryStore(), range(start, start + 500), 0.0003).writes
        for start in range(0, hand_overs, 500)
    )
    assert writes > hand_overs / 10, "the sweeps have to have had something to do"


def test_the_same_race_on_redis(redis: Redis) -> None:
    """With the server's clock and scripts."""
    with client.Redis.from_url(redis.url) as connected:
        connected.flushall()
        store = RedisStore(lambda: connected, lambda: timedelta(days=1))
        assert_a_sweep_writes(store, 0.02)


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def database(request: Any, django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A database of each kind with the ledger's tables, empty."""
    options = {
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=wal; PRAGMA synchronous=off",
    }
    place = place_of(request, **options)
    with django_db_blocker.unblock(), added(f"swept-{request.param}", place) as alias:
        wipe(alias)
        yield alias


@pytest.mark.parametrize(
    "database", ["sqlite", "postgres", pytest.param("mariadb", marks=pytest.mark.full)], indirect=True
)
def test_the_same_race_on_databases(database: str) -> None:
    """With the database's clock, on a connection for each thread."""
    store = DatabaseStore(lambda: database)
    assert_a_sweep_writes(store, 0.002, lambda: connections[database].close())


app = Celery("raced", broker="memory://", backend="cache+memory://", set_as_current=False)


class Provider:
    """Knows what it took, and answers once two sweeps have asked."""

    def __init__(self) -> None:
        self.says = Verdict.UNKNOWN
        self.both = threading.Barrier(2, timeout=60)

    def __call__(self, entry: Any) -> Verdict:
        self.both.wait()
        return self.says


provider = Provider()


@app.task(
    base=IdempotentEmailTask, key_fields=("n",), name="raced-mail", in_doubt=lambda entry: provider(entry)
)
def verified_mail(n: int) -> None: ...


@pytest.mark.parametrize("verdict", [Verdict.SENT, Verdict.NOT_SENT])
def test_two_whole_sweeps_with_a_verifier(
    database: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the doubt and ask; the verdict is applied once, with one row of audit, and nothing is lost."""
    ledger = Ledger(DatabaseStore(lambda: database))
    monkeypatch.setattr(sweep, "get_ledger", lambda app: ledger)
    monkeypatch.setattr(search, "ledger_alias", lambda: database)
    monkeypatch.setattr(provider, "says", verdict)

    def go_round(_: int) -> sweep.Swept:
        try:
            return sweep.sweep(app=app)
        finally:
            connections[database].close()

    for number in range(5):
        who = replace(claimant(number), email_type="raced-mail")
        late = Policy(send_timeout=-1.0)
        hold(ledger, ledger.claim(who, late).entry, who, late).begin([TARGET], "<m@x>")  # type: ignore[union-attr]
        passes = race(go_round, 2)
        assert sum(one.in_doubt for one in passes) == 1
        told = [(one.sent, one.not_sent, one.unknown) for one in passes]
        once = (1, 0, 0) if verdict is Verdict.SENT else (0, 1, 0)
        assert sorted(told) == [(0, 0, 0), once]
        entry = ledger.store.get(who.key).entry  # type: ignore[union-attr]
        assert [(one.actor, one.action) for one in entry.audit] == [("sweep", f"resolved as {verdict.value}")]
        assert entry.attempts == 1
        _goes_on(ledger, entry, who, verdict)


def _goes_on(ledger: Ledger, entry: Any, who: Claimant, verdict: Verdict) -> None:
    """Have another task call: it is a duplicate of what was sent, and sends what was not."""
    (delivery,) = entry.deliveries
    outcome = ledger.claim(replace(who, task_id="task-2"), Policy())
    if verdict is Verdict.SENT:
        assert (entry.status, delivery.status) == (Status.SENT, DeliveryStatus.ACCEPTED)
        assert isinstance(outcome, Duplicate)
    else:
        assert (entry.status, delivery.status) == (Status.RELEASED, DeliveryStatus.DEFERRED)
        assert isinstance(outcome, Acquired)


def test_sweeps_and_duplicates_of_the_same_emails() -> None:
    """P1: with other tasks taking over what a sweep has released, each email is accepted once."""
    store = MemoryStore()
    ledger, stop = Ledger(store), threading.Event()
    policy = Policy(lease=0.0005, send_timeout=300)
    accepted: list[str] = []

    def go_round() -> None:
        while not stop.is_set():
            sweep.Sweep(ledger).expire_deadlines()

    def call(racer: int) -> None:
        for number in range(200):
            who = claimant(number, f"task-{racer}")
            while True:
                outcome = ledger.claim(who, policy)
                if isinstance(outcome, Duplicate):
                    break
                if not isinstance(outcome, Acquired):
                    time.sleep(0.0002)
                    continue
                entry = outcome.entry
                try:
                    time.sleep((number % 3) * 0.0004)
                    if not entry.deliveries:  # as the mail backend does: what was accepted is not offered again
                        entry = hold(ledger, entry, who, policy).begin([TARGET], "<m@x>")
                        accepted.append(who.key)
                        entry = hold(ledger, entry, who, policy).settle(ACCEPTED, "<m@x>")
                    hold(ledger, entry).complete(None)
                except ClaimLost:
                    continue
                break

    thread = threading.Thread(target=go_round)
    thread.start()
    try:
        race(call, 4)
    finally:
        stop.set()
        thread.join(60)
    assert sorted(accepted) == sorted({f"key-{n}" for n in range(200)})


def test_two_sweeps_find_the_same(memory_ledger: Any) -> None:
    """One of them acts."""
    for round_ in range(50):
        who = claimant(round_)
        entry = hold(memory_ledger, memory_ledger.claim(who, Policy()).entry, who, Policy()).begin(
            [TARGET], "<m@x>"
        )
        assert memory_ledger.store.swap(replace(entry, deadline=After(-1)), entry.version)
        changed = race(lambda n, key=who.key: expire(memory_ledger.store, key), 4)
        assert sum(entry is not None for entry in changed) == 1
