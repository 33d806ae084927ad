"""What `celery_idempotent.testing` offers to users' tests: a fresh ledger, a clock to move, short waits."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.conf import settings as django_settings

from celery_idempotent import LedgerUnavailable
from celery_idempotent.execution import body, run
from celery_idempotent.execution.retrying import retry_while_unavailable
from celery_idempotent.mail.handover import HandOver
from celery_idempotent.mail.smtp.connections import pool
from celery_idempotent.stores import factory
from celery_idempotent.testing import KEY, FakeClock, fresh_ledger, make_entry, speed_up


def test_a_fresh_ledger_is_empty_and_is_the_projects() -> None:
    """Inside the block the package writes there; another block begins empty again."""
    for _ in range(2):
        with fresh_ledger() as ledger:
            assert factory.get_ledger() is ledger
            assert ledger.store.get(KEY) is None
            ledger.store.insert(make_entry())
            assert ledger.store.get(KEY) is not None


def test_a_fresh_ledger_leaves_the_settings_as_they_were(settings: Any) -> None:
    """Also after an error in the block, and with the project's other settings in place inside it."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": "database", "NAMESPACE": "shop"}

    def fail() -> None:
        with fresh_ledger():
            assert django_settings.CELERY_IDEMPOTENT == {"LEDGER": "memory://", "NAMESPACE": "shop"}
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert django_settings.CELERY_IDEMPOTENT == {"LEDGER": "database", "NAMESPACE": "shop"}


def test_a_fake_clock_stands_until_it_is_moved() -> None:
    """Deadlines pass when the test says so."""
    clock = FakeClock(datetime(2026, 5, 1, tzinfo=timezone.utc))
    with fresh_ledger(clock=clock) as ledger:
        ledger.store.insert(make_entry())
        assert ledger.store.now() == ledger.store.now() == datetime(2026, 5, 1, tzinfo=timezone.utc)
        assert not ledger.store.due()
        clock.forward(61)
        assert ledger.store.now() == datetime(2026, 5, 1, tzinfo=timezone.utc) + timedelta(seconds=61)
        assert [entry.key for entry in ledger.store.due()] == [KEY]


def test_waits_are_short_inside_the_block_and_as_before_after_it() -> None:
    """The number of pauses stays: a doubt is offered as often as in production."""
    before = (body.FIRST_DEFERRAL, HandOver.pauses, run.RELEASE_PATIENCE, pool.health_patience)
    with speed_up():
        assert body.deferral(5, Exception()) == 0.0
        assert HandOver.pauses == (0.0,) * len(before[1])
        assert run.RELEASE_PATIENCE == 0.0
        assert pool.health_patience <= 1.0
    assert (body.FIRST_DEFERRAL, HandOver.pauses, run.RELEASE_PATIENCE, pool.health_patience) == before
    assert body.deferral(0, Exception()) == 60.0


def test_a_release_is_tried_once_while_waits_are_short() -> None:
    """With a ledger that does not answer, a test does not sit through ten seconds of attempts."""
    tried = []

    def write() -> None:
        tried.append(1)
        raise LedgerUnavailable("down")

    with speed_up(), pytest.raises(LedgerUnavailable):
        retry_while_unavailable(write, run.RELEASE_PATIENCE)
    assert len(tried) == 1
