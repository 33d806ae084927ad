"""The Redis store on a real server: conformance, round trips, memory, and what goes when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis as client

from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Duplicate, Reply
from celery_idempotent.ledger.policy import Claimant, Verdict
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.stores.redis.store import RedisStore
from celery_idempotent.testing import KEY, StoreConformance, hold
from tests.stores.emails import ACCEPTED, CLAIMANT, DAY, MESSAGE_ID, PLACE, POLICY, TARGET, send
from tests.support.servers import Redis
from tests.support.tiers import sized


@pytest.fixture
def store(connected: Any) -> RedisStore:
    """An empty store."""
    return RedisStore(lambda: connected, lambda: DAY)


class TestRedisStore(StoreConformance):
    """Conforms."""

    @pytest.fixture
    def store(self, store: Any) -> Any:
        return store


# -- what it costs ---------------------------------------------------------------------------------------


def test_round_trips(connected: Any, store: RedisStore) -> None:
    """Claim 1, hand-over 2, complete 1, duplicate 1: by the server's own count of what clients asked for."""
    ledger = Ledger(store)
    send(ledger, replace(CLAIMANT, key="warm-up"))  # the scripts are known to the server from here on

    def counted(work: Callable[[], Any]) -> tuple[int, int, Any]:
        connected.config_resetstat()
        value = work()
        stats = connected.info("commandstats")
        scripts = stats.pop("cmdstat_evalsha")["calls"]
        inside = {
            f"cmdstat_{name}" for name in ("get", "set", "time", "zadd", "zrem", "config|resetstat", "info")
        }
        others = {name for name in stats if name not in inside}
        return scripts, len(others), value

    claim, others, outcome = counted(lambda: ledger.claim(CLAIMANT, POLICY))
    assert (claim, others) == (1, 0)
    begin, others, entry = counted(
        lambda: hold(ledger, outcome.entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID)
    )
    assert (begin, others) == (1, 0)
    settle, others, entry = counted(lambda: hold(ledger, entry, CLAIMANT, POLICY).settle(ACCEPTED, MESSAGE_ID))
    assert (settle, others) == (1, 0)
    complete, others, entry = counted(lambda: hold(ledger, entry).complete({"order_id": 7}))
    assert (complete, others) == (1, 0)
    duplicate, others, outcome = counted(lambda: ledger.claim(replace(CLAIMANT, task_id="other"), POLICY))
    assert (duplicate, others) == (1, 0)
    assert isinstance(outcome, Duplicate)


def test_memory_of_a_finished_email(connected: Any, store: RedisStore) -> None:
    """Under 700 bytes each, all told: key, value, expiry and the server's own book-keeping."""
    ledger, number = Ledger(store), sized(test=500, all=2000)
    send(ledger, replace(CLAIMANT, key="warm-up"))
    before = connected.info("memory")["used_memory_dataset"] + connected.info("memory")["used_memory_overhead"]
    for n in range(number):
        key = f"1:{n:064x}"
        send(
            ledger,
            replace(CLAIMANT, key=key, label=f"order_id={n}, to=a***@example.com", fingerprint="ab" * 32),
        )
    after = connected.info("memory")["used_memory_dataset"] + connected.info("memory")["used_memory_overhead"]
    each = (after - before) / number
    print(f"{each:.0f} bytes for a finished email with one recipient")
    assert each < 700


def test_only_what_is_finished_has_an_end(connected: Any, store: RedisStore) -> None:
    """The time to live comes with the value, and counts from the last write."""
    ledger, place = Ledger(store), PLACE(KEY)
    outcome = ledger.claim(CLAIMANT, POLICY)
    assert connected.pttl(place) == -1
    entry = hold(ledger, outcome.entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID)
    assert connected.pttl(place) == -1
    entry = hold(ledger, entry, CLAIMANT, POLICY).settle({TARGET: Reply(DeliveryStatus.IN_DOUBT)}, MESSAGE_ID)
    assert (entry.status, connected.pttl(place)) == (Status.IN_DOUBT, -1)
    send(ledger, replace(CLAIMANT, key="sent"))
    assert 0 <= DAY.total_seconds() * 1000 - connected.pttl(PLACE("sent")) < 10_000
    ledger.claim(replace(CLAIMANT, key="sent", task_id="other"), POLICY)
    assert connected.pttl(PLACE("sent")) > 0, "counting an arrival keeps it"


def test_only_what_is_in_flight_is_in_the_sets_of_deadlines(connected: Any, store: RedisStore) -> None:
    """What is sent and unfinished has a deadline, and would keep others from the sweep there."""
    ledger = Ledger(store)
    entry = ledger.claim(CLAIMANT, POLICY).entry
    assert len(list(connected.scan_iter(_type="ZSET"))) == 1
    entry = hold(ledger, entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID)
    entry = hold(ledger, entry, CLAIMANT, POLICY).settle({TARGET: Reply(DeliveryStatus.IN_DOUBT)}, MESSAGE_ID)
    entry = Operator(ledger, "ann", "it is there").resolve(entry, Verdict.SENT)
    assert (entry.status, entry.unfinished) == (Status.SENT, True)
    assert entry.deadline is not None
    assert list(connected.scan_iter(_type="ZSET")) == []


def test_purge_goes_by_the_age_and_not_by_the_retention(connected: Any) -> None:
    """A longer RETENTION does not make what is seconds old look old; another program's keys stay."""
    retention = DAY
    store = RedisStore(lambda: connected, lambda: retention)
    send(Ledger(store))
    connected.set(PLACE("foreign"), "not ours", ex=1000)
    retention = 90 * DAY
    assert store.purge(older_than=3600) == 0
    assert store.get(KEY) is not None
    assert store.purge(older_than=0) == 1
    assert connected.get(PLACE("foreign")) == b"not ours"


def test_one_of_many_claims_wins_across_processes_worth_of_clients(redis: Redis, store: RedisStore) -> None:
    """P1: each racer with a connection of its own."""
    from celery_idempotent.testing import race

    for n in range(30):
        claimant = replace(CLAIMANT, key=f"race-{n}")

        def claim(racer: int, claimant: Claimant = claimant) -> Any:
            with client.Redis.from_url(redis.url) as own:
                ledger = Ledger(RedisStore(lambda: own, lambda: DAY))
                return ledger.claim(replace(claimant, task_id=f"racer-{racer}"), POLICY)

        outcomes = race(claim)
        assert sum(isinstance(outcome, Acquired) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Busy) for outcome in outcomes) == len(outcomes) - 1
