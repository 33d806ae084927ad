"""Events about a mail to thousands: each costs what one look at every delivery costs, and no more."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from celery_idempotent.ledger.entry import Delivery, Entry, Recipient
from celery_idempotent.ledger.provider_events import Event, mark, with_event
from celery_idempotent.ledger.status import DeliveryStatus, Status

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
MANY = 500


class Digest(str):
    """Counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Digest.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize(
    ("status", "deliveries", "told"),
    [
        (Status.SENT, DeliveryStatus.ACCEPTED, 1),
        (Status.IN_DOUBT, DeliveryStatus.IN_DOUBT, MANY),
    ],
)
def test_an_event_about_one_of_many(status: Status, deliveries: DeliveryStatus, told: int) -> None:
    """There are as many events as recipients, so that what is quadratic in one would be cubic in all."""
    rows = [Delivery("0", Recipient(Digest(f"d{n}"), ""), deliveries, "<1@shop>") for n in range(MANY)]
    entry = Entry("k", "t", status, "task", begun_at=NOW, attempts=1, deliveries=tuple(rows))
    event = Event("delivered", NOW, 1, mark("<1@shop>", NOW), 1, "d7", whole=True)
    Digest.compared = 0
    changed = with_event(entry, event, NOW)
    assert Digest.compared < 10 * MANY
    assert sum(bool(delivery.events) for delivery in changed.deliveries) == told
