"""One email of the usual size on its way through a ledger in Redis."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import redis as client

from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.stores.redis.store import RedisStore
from celery_idempotent.testing import KEY, hold
from tests.support.servers import Redis
from tests.support.worker import wait_for

DAY = timedelta(days=1)
PLACE = RedisStore(lambda: None, lambda: DAY).place
CLAIMANT = Claimant(
    KEY, "order-confirmation", "b7cf6d3e-9d0e-4c64-8ac5-59ee02b3d1f9", "celery@shop-1", "order_id=7"
)
POLICY = Policy()
TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
MESSAGE_ID = f"<{'ab' * 20}@shop.example>"
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250, "2.0.0 Ok: queued")}


def send(ledger: Ledger, claimant: Claimant = CLAIMANT) -> Any:
    """Go through the life of an email."""
    outcome = ledger.claim(claimant, POLICY)
    assert isinstance(outcome, Acquired)
    entry = hold(ledger, outcome.entry, claimant, POLICY).begin([TARGET], MESSAGE_ID)
    entry = hold(ledger, entry, claimant, POLICY).settle(ACCEPTED, MESSAGE_ID)
    return hold(ledger, entry).complete({"order_id": 7})


def synced(replica: Redis) -> None:
    """Wait until a replica has all that its primary has."""
    with client.Redis.from_url(replica.url) as connected:
        wait_for(lambda: connected.info("replication")["master_link_status"] == "up")
