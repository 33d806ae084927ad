"""What every test of the core starts with."""

from __future__ import annotations

import pytest

from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> Ledger:
    """An empty ledger on it."""
    return Ledger(MemoryStore(clock))


@pytest.fixture
def operator(ledger: Ledger) -> Operator:
    """Ann, with a reason."""
    return Operator(ledger, "ann", "ticket 5")
