"""What the tests of the outbox and of its relay start with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_idempotent.outbox import enqueue
from tests.celery.outbox_tasks import Broker, app


@pytest.fixture
def broker(memory_ledger: Any) -> Iterator[Broker]:
    """A broker that was never down, and a ledger; both empty."""
    enqueue._not_before = 0.0
    with app.connection_for_write() as connection:
        broker = Broker(connection)
        yield broker
        broker.empty()


@pytest.fixture
def quiet(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and nothing published but by the relay."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)
