"""A store that went back in time, by a failover or a backup: the process that knows of the 250 has not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis as client
from django.db import connections

from celery_idempotent.exceptions import ClaimLost
from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Duplicate, Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.ledger.store import Store
from celery_idempotent.models import Delivery, LogicalEmail, SendAttempt
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.stores.redis.store import RedisStore
from celery_idempotent.testing import KEY, hold
from tests.support.databases import added, place_of, wipe

CLAIMANT = Claimant(KEY, "order-confirmation", "task-1")
OTHER = replace(CLAIMANT, task_id="task-2")
POLICY = Policy()
TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250, "queued")}


class Backup:
    """Puts a store back to what it was."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def take(self) -> Any:
        if isinstance(self.store, MemoryStore):
            return dict(self.store._entries)
        if isinstance(self.store, RedisStore):
            return self.store.client.get(self.store.place(KEY))
        tables = (LogicalEmail, Delivery, SendAttempt)
        return [list(model.objects.using(self.store._alias()).all()) for model in tables]

    def restore(self, taken: Any) -> None:
        if isinstance(self.store, MemoryStore):
            self.store._entries = dict(taken)
        elif isinstance(self.store, RedisStore):
            place = self.store.place(KEY)
            self.store.client.set(place, taken) if taken else self.store.client.delete(place)
        else:
            alias = self.store._alias()
            wipe(alias)
            for rows in taken:
                for row in rows:
                    row.save(using=alias, force_insert=True)


@pytest.fixture(params=["memory", "redis", "sqlite", "postgres", "mariadb"])
def store(request: Any, django_db_setup: None, django_db_blocker: Any) -> Iterator[Store]:
    """Each kind of store, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    if request.param == "redis":
        with client.Redis.from_url(request.getfixturevalue("redis").url) as connected:
            connected.flushall()
            yield RedisStore(lambda: connected, lambda: timedelta(days=1))
        return
    alias = f"back-{request.param}"
    with django_db_blocker.unblock(), added(alias, place_of(request)):
        wipe(alias)
        yield DatabaseStore(lambda: alias)
        wipe(alias)
        connections[alias].close()


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """A ledger on it."""
    return Ledger(store)


def claimed(ledger: Ledger, claimant: Claimant = CLAIMANT, policy: Policy = POLICY) -> Any:
    outcome = ledger.claim(claimant, policy)
    assert isinstance(outcome, Acquired)
    return outcome.entry


@pytest.mark.parametrize("back", ["nothing", "released", "claimed", "sending"])
def test_what_was_accepted_is_written_anew(ledger: Ledger, store: Store, back: str) -> None:
    """P1: to nothing, to an earlier claim of the same task, to this claim, to the write-ahead."""
    backup = Backup(store)
    states = {"nothing": backup.take()}
    hold(ledger, claimed(ledger), policy=POLICY).release()
    states["released"] = backup.take()
    entry = claimed(ledger)
    states["claimed"] = backup.take()
    entry = hold(ledger, entry, CLAIMANT, POLICY).begin([TARGET], "<m@x>")
    states["sending"] = backup.take()
    backup.restore(states[back])
    entry = hold(ledger, entry, CLAIMANT, POLICY).settle(ACCEPTED, "<m@x>")
    assert entry.deliveries[0].status is DeliveryStatus.ACCEPTED
    found = store.get(KEY)
    assert found is not None
    assert found.entry.deliveries[0].status is DeliveryStatus.ACCEPTED
    assert abs(found.entry.sent_at - found.now) < timedelta(seconds=20)
    hold(ledger, entry).complete("done")
    outcome = ledger.claim(OTHER, POLICY)
    assert isinstance(outcome, Duplicate)
    assert outcome.entry.result == "done"
    assert outcome.entry.deliveries[0].status is DeliveryStatus.ACCEPTED


def test_an_opaque_body_is_not_run_again(ledger: Ledger, store: Store) -> None:
    """It has no deliveries; that it is done is all there is to know."""
    backup = Backup(store)
    nothing = backup.take()
    opaque = replace(POLICY, opaque=True)
    entry = claimed(ledger, policy=opaque)
    backup.restore(nothing)
    hold(ledger, entry).complete("paid")
    outcome = ledger.claim(OTHER, opaque)
    assert isinstance(outcome, Duplicate)
    assert outcome.entry.result == "paid"


def test_a_claim_with_nothing_sent_is_just_lost(ledger: Ledger, store: Store) -> None:
    """There is nothing to know that the store does not; the owner is nobody, so the task comes back."""
    backup = Backup(store)
    nothing = backup.take()
    entry = claimed(ledger)
    backup.restore(nothing)
    with pytest.raises(ClaimLost) as lost:
        hold(ledger, entry, CLAIMANT, POLICY).begin([TARGET], "<m@x>")
    assert lost.value.owner is None


def test_whoever_has_claimed_since_is_left_alone(ledger: Ledger, store: Store) -> None:
    """Its hand-over is under way: its entry is not taken for one's own."""
    backup = Backup(store)
    nothing = backup.take()
    entry = hold(ledger, claimed(ledger), CLAIMANT, POLICY).begin([TARGET], "<m@x>")
    backup.restore(nothing)
    other = hold(ledger, claimed(ledger, OTHER), OTHER, POLICY).begin([TARGET], "<m@x>")
    with pytest.raises(ClaimLost):
        hold(ledger, replace(entry, version=9), CLAIMANT, POLICY).settle(ACCEPTED, "<m@x>")
    assert isinstance(ledger.claim(CLAIMANT, POLICY), Busy)
    assert hold(ledger, other, OTHER, POLICY).settle(ACCEPTED, "<m@x>").status is Status.CLAIMED
