"""Hand-overs to Ann and Bob, and what their provider tells of them later."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from celery_idempotent.ledger.entry import Entry, Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.provider_events import Event, mark
from celery_idempotent.ledger.provider_offers import Offer
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.testing import FakeClock, hold

ONE = Claimant("k", "mail", "task-1")
TWO = replace(ONE, task_id="task-2")
POLICY = Policy(lease=60, send_timeout=30)
ANN, BOB = ("0", Recipient("a", "a***")), ("0", Recipient("b", "b***"))
AT = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
YES, LOST = Reply(DeliveryStatus.ACCEPTED, 202), Reply(DeliveryStatus.IN_DOUBT, None, "no reply")
LATER = Reply(DeliveryStatus.DEFERRED, None, "failed")


def event(kind: str = "delivered", who: Any = ANN, **more: Any) -> Event:
    given = {
        "at": AT,
        "generation": 1,
        "message": mark("<m>", FakeClock().now),
        "attempt": 1,
        "recipient": who[1].digest if who else "",
    }
    given["source"] = "Mailgun"
    return Event(kind, **{**given, **more})


def begun(ledger: Ledger, *targets: Any, offer: Offer | None = None) -> Entry:
    outcome = ledger.claim(ONE, POLICY)
    assert isinstance(outcome, Acquired)
    return hold(ledger, outcome.entry, ONE, POLICY).begin(targets or [ANN], "<m>", offer)


def in_doubt(ledger: Ledger, *targets: Any, offer: Offer | None = None) -> Entry:
    entry = begun(ledger, *targets, offer=offer)
    return hold(ledger, entry, ONE, POLICY).settle(dict.fromkeys(targets or [ANN], LOST), "<m>")


def told(ledger: Ledger, *told: Event) -> Entry:
    entry = None
    for one in told:
        heard = ledger.hear("k", one)
        assert heard is not None
        entry = heard.entry
    assert entry is not None
    return entry


def statuses(entry: Entry) -> list[DeliveryStatus]:
    return [delivery.status for delivery in entry.deliveries]
