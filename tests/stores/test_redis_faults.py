"""The Redis store when something is wrong: foreign values, no memory, no replica, no server."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import redis as client

from celery_idempotent.exceptions import EntryUnreadable, LedgerUnavailable
from celery_idempotent.ledger.entry import After
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Duplicate
from celery_idempotent.ledger.status import Status
from celery_idempotent.stores.redis.store import RedisStore
from celery_idempotent.testing import KEY, hold, make_entry
from tests.stores.emails import ACCEPTED, CLAIMANT, DAY, MESSAGE_ID, PLACE, POLICY, TARGET, send, synced
from tests.support.servers import Redis, free_port
from tests.support.worker import wait_for


@pytest.fixture
def store(connected: Any) -> RedisStore:
    """An empty store."""
    return RedisStore(lambda: connected, lambda: DAY)


@pytest.mark.parametrize(
    "value",
    ["", "hello", "1 1 1 1 0 {}", "3 1 1 1 0 {}", "2 1 1 1 0 {}", "2 1 1 1 0 [", '2 x 1 1 0 {"s":"sent"}'],
)
def test_what_is_no_entry_of_ours(connected: Any, store: RedisStore, value: str) -> None:
    """Another program's data, a torn value or a newer version's: named, not sent, not overwritten."""
    connected.set(PLACE(KEY), value)
    ledger = Ledger(store)
    for attempt in (lambda: ledger.claim(CLAIMANT, POLICY), lambda: store.get(KEY)):
        with pytest.raises(EntryUnreadable, match=KEY):
            attempt()
    assert connected.get(PLACE(KEY)).decode().split()[-1:] == value.split()[-1:]


def test_another_type_under_our_key(connected: Any, store: RedisStore) -> None:
    """A list where an entry should be."""
    connected.rpush(PLACE(KEY), "a")
    for attempt in (
        lambda: store.insert(make_entry()),
        lambda: store.swap(make_entry(), 1),
        lambda: store.get(KEY),
    ):
        with pytest.raises(EntryUnreadable, match="another program"):
            attempt()
    assert connected.lrange(PLACE(KEY), 0, -1) == [b"a"]


def test_a_newer_entry_is_not_overwritten_in_the_middle(connected: Any, store: RedisStore) -> None:
    """A newer version of this package took over while this one was at work."""
    ledger = Ledger(store)
    outcome = ledger.claim(CLAIMANT, POLICY)
    connected.set(PLACE(KEY), "3 newer")
    with pytest.raises(EntryUnreadable):
        hold(ledger, outcome.entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID)
    assert connected.get(PLACE(KEY)) == b"3 newer"


def test_a_lost_script_cache(connected: Any, store: RedisStore) -> None:
    """After a restart or ``SCRIPT FLUSH`` the scripts are given again."""
    ledger = Ledger(store)
    send(ledger)
    connected.script_flush()
    assert isinstance(ledger.claim(replace(CLAIMANT, task_id="other"), POLICY), Duplicate)


def test_out_of_memory(connected: Any, store: RedisStore) -> None:
    """Nothing can be written, so nothing may be sent; when there is room it goes on."""
    ledger = Ledger(store)
    outcome = ledger.claim(CLAIMANT, POLICY)
    connected.config_set("maxmemory", 1)
    for work in (
        lambda: ledger.claim(replace(CLAIMANT, key="new"), POLICY),
        lambda: hold(ledger, outcome.entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID),
    ):
        with pytest.raises(LedgerUnavailable, match="OutOfMemory"):
            work()
    connected.config_set("maxmemory", 0)
    assert hold(ledger, outcome.entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID).status is Status.SENDING


@pytest.mark.process
def test_a_replica_takes_no_writes_and_is_a_problem() -> None:
    """READONLY is an outage to a send, and named by the check."""
    with Redis() as primary, Redis("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        with client.Redis.from_url(replica.url) as connected:
            store = RedisStore(lambda: connected, lambda: DAY)
            synced(replica)
            with pytest.raises(LedgerUnavailable, match=r"READONLY|read only"):
                store.insert(make_entry())
            assert "replica" in store.problems()[0]
        with client.Redis.from_url(primary.url) as connected:
            assert RedisStore(lambda: connected, lambda: DAY).problems() == []


def test_eviction_is_a_problem(connected: Any, store: RedisStore) -> None:
    """An evicted entry would reopen its email."""
    assert store.problems() == []
    connected.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "noeviction" in store.problems()[0]
    finally:
        connected.config_set("maxmemory-policy", "noeviction")


@pytest.mark.process
def test_a_server_that_is_still_loading() -> None:
    """LOADING is an outage that passes."""
    slow = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    with Redis(*slow) as server, client.Redis.from_url(server.url, retry=None) as connected:
        ledger = Ledger(RedisStore(lambda: connected, lambda: DAY))
        send(ledger)
        with connected.pipeline() as pipeline:
            for n in range(40):
                pipeline.set(f"other:{n}", os.urandom(2000))
            pipeline.execute()
        connected.save()
        server.stop()
        server.start()
        with pytest.raises(LedgerUnavailable, match=r"(?i)loading"):
            ledger.claim(replace(CLAIMANT, task_id="other"), POLICY)
        wait_for(lambda: connected.info("persistence")["loading"] == 0)
        assert isinstance(ledger.claim(replace(CLAIMANT, task_id="other"), POLICY), Duplicate)


def test_a_server_that_is_gone(store: RedisStore) -> None:
    """Every primitive says so in the one way that callers know."""
    with client.Redis(port=free_port(), retry=None) as nobody:
        gone = RedisStore(lambda: nobody, lambda: DAY)
        for work in (
            lambda: gone.insert(make_entry()),
            lambda: gone.swap(make_entry(), 1),
            lambda: gone.get(KEY),
            gone.due,
            gone.now,
            gone.problems,
            lambda: gone.purge(1),
            lambda: gone.mark_stale(KEY),
        ):
            with pytest.raises(LedgerUnavailable, match="does not answer"):
                work()


@pytest.mark.process
def test_a_write_ahead_that_no_replica_has_does_not_count() -> None:
    """With ``wait`` a failover cannot forget it: without the replica's word nothing is sent."""
    with Redis() as primary, client.Redis.from_url(primary.url) as connected:
        wait = (1, 2000)
        ledger = Ledger(RedisStore(lambda: connected, lambda: DAY, lambda: wait))
        outcome = ledger.claim(CLAIMANT, POLICY)
        with Redis("--replicaof", "127.0.0.1", str(primary.port)) as replica:
            synced(replica)
            entry = hold(ledger, outcome.entry, CLAIMANT, POLICY).begin([TARGET], MESSAGE_ID)
            with client.Redis.from_url(replica.url) as second:
                assert b'"s":"sending"' in second.get(PLACE(KEY))
        entry = hold(ledger, entry, CLAIMANT, POLICY).settle(ACCEPTED, MESSAGE_ID)
        wait = (1, 50)
        with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
            hold(ledger, entry, CLAIMANT, POLICY).begin([("1", TARGET[1])], MESSAGE_ID)
        assert (
            hold(ledger, entry, CLAIMANT, POLICY).withdraw([("1", TARGET[1])], MESSAGE_ID).status
            is Status.CLAIMED
        )


def test_due_forgets_what_has_no_entry_any_more(connected: Any, store: RedisStore) -> None:
    """And one entry that cannot be read does not hide the others."""
    store.insert(make_entry("gone", deadline=After(-5)))
    store.insert(make_entry("torn", deadline=After(-4)))
    store.insert(make_entry("late", deadline=After(-3)))
    connected.delete(PLACE("gone"))
    connected.set(PLACE("torn"), "2 x")
    assert [entry.key for entry in store.due(limit=1)] == ["late"]
    assert not any(connected.zscore(key, PLACE("gone")) for key in connected.keys("idem:due:*"))


@pytest.mark.process
def test_an_opaque_claim_that_no_replica_has_leaves_no_doubt() -> None:
    """Its body has not begun, so it is taken back and free for the next try."""
    opaque = replace(POLICY, opaque=True)
    with Redis() as primary, client.Redis.from_url(primary.url) as connected:
        wait: tuple[int, int] | None = (1, 20)
        ledger = Ledger(RedisStore(lambda: connected, lambda: DAY, lambda: wait))
        with pytest.raises(LedgerUnavailable, match="0 of 1 replicas"):
            ledger.claim(CLAIMANT, opaque)
        found = ledger.store.get(KEY)
        assert found is not None
        assert found.entry.status is Status.RELEASED
        wait = None
        outcome = ledger.claim(CLAIMANT, opaque)
        assert isinstance(outcome, Acquired)
        hold(ledger, outcome.entry).complete("done")
        wait = (1, 20)
        assert isinstance(ledger.claim(replace(CLAIMANT, task_id="other"), opaque), Duplicate)
