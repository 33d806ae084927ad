"""The first use of a ledger, by many threads at once: they all get the same one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from celery_idempotent.stores import factory
from celery_idempotent.testing import race


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switching")
def test_threads_that_come_first_together_share_a_ledger(keep_ledger_in: Callable[[str], None]) -> None:
    """One in memory is lost to those who hold another; they would send what these have sent."""
    for _ in range(100):
        keep_ledger_in("memory://")
        stores = race(lambda n: factory.get_ledger().store)
        assert len(set(map(id, stores))) == 1
