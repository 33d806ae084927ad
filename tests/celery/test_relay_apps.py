"""Several Celery apps on one outbox: each relay publishes the messages of its own app's tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from django.db.models import F

from celery_idempotent import IdempotentTask
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Relay
from celery_idempotent.outbox.rows import StoreNow
from tests.celery.outbox_tasks import app, make_due, owed
from tests.support.seeded_entries import Seed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quiet")]
other = Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)
other.conf.task_default_queue = "others"


@other.task(base=IdempotentTask, key_fields=("n",), name="billed", shared=False)
def billed(n: int) -> None: ...


def due(**seconds: float) -> None:
    """Let every row be due for so long."""
    OutboxMessage.objects.update(due_at=StoreNow())
    OutboxMessage.objects.update(due_at=F("due_at") - timedelta(**seconds))


def test_relays_that_know_different_tasks_keep_nothing_from_each_other() -> None:
    """What one does not know it leaves as it is, and the other one publishes it at once."""
    owed.enqueue(1)
    theirs = billed.enqueue(2).id
    due(seconds=1)
    before = OutboxMessage.objects.get(task_id=theirs)
    outcome = Relay(app).once()
    assert (outcome.published, outcome.waiting, outcome.faults) == (1, 0, {})
    after = OutboxMessage.objects.get(task_id=theirs)
    assert (after.due_at, after.error, after.tries) == (before.due_at, "", 0)
    assert Relay(other).once().published == 1


def test_what_a_relay_does_not_know_takes_no_place_in_its_batches() -> None:
    """However much of it is due, and for longer than its own."""
    billed.enqueue_many([(n,) for n in range(10)])
    due(minutes=10)
    owed.enqueue(1)
    OutboxMessage.objects.filter(task="owed").update(due_at=StoreNow())
    assert Relay(app, batch=2).once(limit=2).published == 1
    assert Relay(other, batch=2).once().published == 10


def test_what_nobody_has_taken_for_long_is_told_of_and_still_found(settings: Any, caplog: Any) -> None:
    """As of a task that is gone. It is read no more for as long; its own relay finds it."""
    settings.CELERY_IDEMPOTENT |= {"REDELIVER_AFTER": 60}
    task_id = billed.enqueue(1).id
    due(seconds=59)
    assert Relay(app).once().faults == {}, "its own relay may be about to"
    due(seconds=61)
    outcome = Relay(app).once()
    assert (outcome.published, outcome.faults.total()) == (0, 1)
    assert str(outcome).endswith("1 unsendable")
    assert "1 message(s) of billed wait: this process knows no task 'billed'" in caplog.text
    row = OutboxMessage.objects.annotate(now=StoreNow()).get(task_id=task_id)
    assert 0 <= (row.now - row.due_at).total_seconds() < 5
    assert Relay(app).once().faults == {}
    assert Relay(other).once().published == 1
    assert OutboxMessage.objects.get(task_id=task_id).error == ""


def test_the_strange_ones_of_a_pass_are_bounded() -> None:
    """By the limit of the pass, apart from what is its own; told to stop, it takes none."""
    billed.enqueue_many([(n,) for n in range(5)])
    owed.enqueue_many([(n,) for n in range(5)])
    make_due()
    outcome = Relay(app, batch=2).once(limit=3)
    assert (outcome.published, outcome.faults.total()) == (3, 3)
    relay = Relay(app, batch=1)
    assert relay.once().faults.total() == 1, "a batch of them where there is no limit"
    relay.stop.set()
    assert relay.once().faults == {}


def test_a_message_of_a_gone_task_that_has_ended_goes() -> None:
    """Though nobody knows the task: it is its own entry that says so."""
    task_id = owed.enqueue(1).id
    Seed(owed, 1, by=task_id).sent(None)
    OutboxMessage.objects.update(task="old.name", tries=1)
    make_due()
    assert Relay(app).once().removed == 1


def test_what_a_relay_could_not_publish_in_time_does_not_wait_for_another_one() -> None:
    """Its broker was away for long, or it has much to do: whoever has looked meanwhile, it goes on."""
    task_id = billed.enqueue(1).id
    due(hours=1)
    assert Relay(app).once().faults.total() == 1
    assert "knows no task" in OutboxMessage.objects.get(task_id=task_id).error
    assert Relay(other).once().published == 1
