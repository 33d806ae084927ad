"""How late a message may come, and the check that compares the retention with that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import InterventionRefused
from celery_idempotent.checks import tasks
from celery_idempotent.operations import purge
from tests.operations.kept import task

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"max_retries": 4, "retry_backoff": True}, 1 + 2 + 4 + 8),
        ({"max_retries": 4, "retry_backoff": 10, "retry_backoff_max": 30}, 10 + 20 + 30 + 30),
        ({"max_retries": 1000, "retry_backoff": True, "retry_backoff_max": 10}, 1 + 2 + 4 + 8 + 996 * 10),
        ({"max_retries": 3}, 3 * 180),
        ({"max_retries": 3, "default_retry_delay": 5}, 15),
        ({"retry_kwargs": {"max_retries": 5, "countdown": 7}}, 35),
        ({"max_retries": 0}, 0),
        ({"max_retries": None}, 0),
    ],
)
def test_how_long_retries_take(app: Celery, options: dict[str, Any], seconds: float) -> None:
    """By Celery's own rules, added to what the broker and waiting for others take."""
    task(app, **options)
    longest, text = purge.longest_redelivery(app)
    assert longest == timedelta(seconds=7200 + 900 + seconds)
    assert ("the retries of kept" in text) == (seconds > 0)


def test_retries_without_end_are_told(app: Celery, settings: Any) -> None:
    """They are in no sum, so whoever is told the sum is told that as well."""
    task(app, max_retries=None)
    with pytest.raises(InterventionRefused, match=r"another task 0:15:00; without an end.*: retries of kept"):
        purge.purge(timedelta(0))
    settings.CELERY_IDEMPOTENT = {"RETENTION": timedelta(hours=2)}
    (found,) = tasks.check_retention(None)
    assert "without an end, and so not counted: retries of kept" in found.msg


@pytest.mark.parametrize(
    ("broker", "options", "seconds"),
    [
        ("redis://x", {}, 3600),
        ("sentinel://x", {}, 3600),
        ("sqs://x", {}, 1800),
        ("amqp://x", {}, 1800),
        ("sqs://x", {"visibility_timeout": 60}, 60),
    ],
)
def test_how_long_a_broker_keeps_a_message(app: Celery, broker: str, options: Any, seconds: int) -> None:
    """What the project says, and otherwise the broker's own default."""
    app.conf.update(broker_url=broker, broker_transport_options=options)
    task(app, max_retries=0)
    assert purge.longest_redelivery(app)[0] == timedelta(seconds=seconds + 900)


@pytest.mark.parametrize(
    ("urls", "seconds"),
    [
        ({"broker_url": ["amqp://x", "redis://y"]}, 3600),
        ({"broker_url": "sqs://x;redis://y"}, 3600),
        ({"broker_read_url": "redis://x", "broker_write_url": "amqp://y"}, 3600),
        ({"broker_url": "redis://x", "broker_read_url": ["amqp://x"]}, 1800),
        ({"broker_url": "REDIS://x"}, 3600),
    ],
)
def test_the_broker_that_workers_read_from_counts(app: Celery, urls: Any, seconds: int) -> None:
    """Of several that stand in for each other, the one that keeps a message longest."""
    app.conf.update(broker_transport_options={}, **{"broker_url": None, **urls})
    task(app, max_retries=0)
    assert purge.longest_redelivery(app)[0] == timedelta(seconds=seconds + 900)


def test_a_countdown_of_beat_counts(app: Celery) -> None:
    """It is in the configuration, unlike that of a single call."""
    task(app, max_retries=0)
    app.conf.beat_schedule = {"nightly": {"task": "kept", "schedule": 60, "options": {"countdown": 50_000}}}
    longest, text = purge.longest_redelivery(app)
    assert longest == timedelta(seconds=7200 + 900 + 50_000)
    assert "nightly" in text


def test_w014_a_retention_shorter_than_the_longest_redelivery(app: Celery, settings: Any) -> None:
    """The message says what comes so late."""
    task(app, max_retries=0)
    assert tasks.check_retention(None) == []
    settings.CELERY_IDEMPOTENT = {"RETENTION": timedelta(hours=2)}
    (found,) = tasks.check_retention(None)
    assert found.id == "celery_idempotent.W014"
    assert "visibility_timeout 2:00:00" in found.msg
    settings.CELERY_IDEMPOTENT = {"RETENTION": timedelta(seconds=7200 + 900)}
    assert tasks.check_retention(None) == []


def test_w014_a_lost_message_that_is_too_old_before_it_is_published_again(app: Celery, settings: Any) -> None:
    """The relay publishes nothing that the ledger may have forgotten: it would stay unsent."""
    task(app, max_retries=0)
    settings.CELERY_IDEMPOTENT = {"RETENTION": DAY, "REDELIVER_AFTER": 86_399}
    assert tasks.check_retention(None) == []
    settings.CELERY_IDEMPOTENT = {"RETENTION": DAY, "REDELIVER_AFTER": 86_400}
    (found,) = tasks.check_retention(None)
    assert found.id == "celery_idempotent.W014"
    for text in ("['REDELIVER_AFTER'] is 86400 s", "RETENTION is 1 day", "stays unsent"):
        assert text in found.msg
