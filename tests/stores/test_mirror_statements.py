"""What the mirror costs the database: no more for the tenth attempt of an email than for its first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.models import SendAttempt
from celery_idempotent.stores import factory
from celery_idempotent.stores.database.mirror import DatabaseMirror
from celery_idempotent.testing import make_attempt, make_entry

pytestmark = pytest.mark.process

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def mirror(keep_ledger_in: Callable[[str], None], db: None) -> DatabaseMirror:
    """The mirror of a ledger in Redis."""
    keep_ledger_in("redis")
    mirror = factory.get_ledger().mirror
    assert mirror is not None
    return mirror


def test_attempts_are_one_statement(mirror: DatabaseMirror) -> None:
    """Those that ended before keep what they had; the one that has ended since gets its end."""
    begun = [make_attempt(number=n, started_at=NOW + timedelta(seconds=n)) for n in range(1, 10)]
    ended = tuple(
        replace(one, ended_at=NOW + timedelta(hours=1), outcome=DeliveryStatus.DEFERRED) for one in begun
    )
    entry = make_entry(version=2, attempts=9, history=(*ended[:8], begun[8])).with_times(NOW)
    assert mirror.show(entry)
    with CaptureQueriesContext(connection) as queries:
        assert mirror.show(replace(entry, version=3, history=ended))
    written = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
    assert len([text for text in written if "sendattempt" in text]) == 1
    assert len(written) == 3, "the row is found, brought up to date, and its attempts with it"
    rows = SendAttempt.objects.order_by("number")
    assert [(row.started_at, row.ended_at) for row in rows] == [(a.started_at, a.ended_at) for a in ended]
    assert {row.outcome for row in rows} == {"deferred"}
