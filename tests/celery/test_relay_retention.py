"""The relay and messages that are older than what the ledger remembers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from celery_idempotent.ledger.status import Status
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Pass, Relay
from tests.celery.outbox_tasks import DAY, Broker, app, delivered, make_due, relayed
from tests.support.hostclock import host_clock
from tests.support.seeded_entries import Seed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quiet")]


def test_what_the_ledger_may_have_forgotten_is_not_sent_again(caplog: Any) -> None:
    """No relay ran for longer than ``RETENTION``: nobody can know, so somebody has to look. New ones go out.

    One that was never published is no exception: another task may have sent the same and be forgotten.
    """
    relayed.enqueue_many([(n,) for n in range(4)])
    old = datetime.now(timezone.utc) - timedelta(days=91)
    OutboxMessage.objects.filter(label="n=0").update(created_at=old, tries=1)
    OutboxMessage.objects.filter(label="n=1").update(created_at=old)
    OutboxMessage.objects.filter(label="n=2").update(created_at=old, tries=1, eta=old + 2 * DAY)
    OutboxMessage.objects.filter(label="n=3").update(created_at=old + 2 * DAY, tries=1)
    make_due()
    outcome = Relay(app).once()
    assert (outcome.published, sum(outcome.faults.values())) == (2, 2)
    held = OutboxMessage.objects.exclude(error="")
    assert {row.label for row in held} == {"n=0", "n=1"}
    assert all("RETENTION" in row.error for row in held)
    assert caplog.text.count("may have forgotten") == 1
    assert held.update(eta=datetime.now(timezone.utc)) == 2, "as its text says"
    make_due()
    assert Relay(app).once().published == 4


@pytest.mark.parametrize("wrong", [-2 * DAY, 2 * DAY], ids=["behind", "ahead"])
def test_the_clock_of_the_relays_host_does_not_make_a_message_old(wrong: timedelta) -> None:
    """Ahead it would hold back what can be sent, behind it would send what may have been sent before."""
    relayed.enqueue_many([(1,), (2,)])
    now = datetime.now(timezone.utc)
    OutboxMessage.objects.filter(label="n=1").update(created_at=now - 89 * DAY, tries=1)
    OutboxMessage.objects.filter(label="n=2").update(created_at=now - 91 * DAY, tries=1)
    make_due()
    with host_clock(lambda: datetime.now(timezone.utc) + wrong):
        outcome = Relay(app).once()
    assert (outcome.published, outcome.faults.total()) == (1, 1)
    assert OutboxMessage.objects.exclude(error="").get().label == "n=2"


def test_an_old_message_is_judged_though_it_was_never_published(broker: Broker) -> None:
    """What the ledger still knows decides: sent by another task, it is removed, and not sent a second time."""
    for n in (1, 2):
        relayed.enqueue(n)
    Seed(relayed, 1, by="another").sent(None)
    Seed(relayed, 2, by="another").released()
    OutboxMessage.objects.update(created_at=datetime.now(timezone.utc) - timedelta(days=91))
    make_due()
    outcome = Relay(app).once()
    assert (outcome.removed, outcome.published, outcome.faults.total()) == (1, 1, 0)
    assert broker.labels() == ["n=2"]


def passes(days: float) -> None:
    """Let time pass for the rows of the outbox."""
    span = timedelta(days=days)
    for row in OutboxMessage.objects.all():
        moments = ("created_at", "published_at", "due_at", "eta")
        changed = {name: getattr(row, name) - span for name in moments if getattr(row, name)}
        OutboxMessage.objects.filter(pk=row.pk).update(**changed)


@pytest.mark.parametrize("at_once", [True, False], ids=["published and lost", "not published"])
def test_a_reminder_for_a_day_beyond_the_retention_is_sent(
    broker: Broker, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for in 120 days, with ``RETENTION`` 90: its age counts from its time, not from the call."""
    if at_once:
        monkeypatch.undo()
    task_id = relayed.enqueue_with((1,), countdown=120 * 86_400).id
    assert broker.labels() == (["n=1"] if at_once else [])
    passes(100)
    assert Relay(app).once().published == (not at_once), "a message is with the broker from now on"
    broker.labels()
    passes(19.9)
    assert Relay(app).once() == Pass()
    passes(0.2)
    assert Relay(app).once().published == 1
    assert broker.labels() == ["n=1"]
    delivered(relayed, task_id)
    assert relayed.entry_for(1).status is Status.SENT
    assert not OutboxMessage.objects.exists()
