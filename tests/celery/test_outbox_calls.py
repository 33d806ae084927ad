"""What ``enqueue`` takes: options, several calls at once, and what it refuses."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from celery_idempotent import ArgumentsNotSerializable, KeyFieldError
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Relay
from celery_idempotent.outbox import enqueue
from tests.celery.outbox_tasks import Broker, app, make_due, owed

pytestmark = pytest.mark.django_db(transaction=True)


def test_options_travel(broker: Broker) -> None:
    """Queue, headers, priority; a countdown is counted from the call, not from the publication."""
    owed.enqueue_with((1,), {"text": "x"}, queue="mail", countdown=100, headers={"mine": 1}, priority=3)
    message = broker.take("mail")[0]
    assert message.headers["mine"] == 1
    assert message.properties["priority"] == 3
    eta = datetime.fromisoformat(message.headers["eta"])
    row = OutboxMessage.objects.get()
    assert row.eta == eta
    assert 95 < (eta - row.created_at).total_seconds() <= 101
    assert 990 < (row.due_at - row.published_at).total_seconds() <= 1001, "from the ETA"
    make_due()
    Relay(app).once()
    assert datetime.fromisoformat(broker.take("mail")[0].headers["eta"]) == eta


def test_a_link_hangs_on_it(broker: Broker) -> None:
    """A signature among the options reaches the worker as Celery's own would."""
    owed.enqueue_with((1,), link=owed.si(5))
    _, _, embedded = broker.take()[0].decode()
    assert [callback["args"] for callback in embedded["callbacks"]] == [[5]]


def test_enqueue_many_takes_calls_of_each_form(broker: Broker) -> None:
    """Tuples, dicts and signatures with options of their own, in order."""
    results = owed.enqueue_many([(1, "a"), {"n": 2}, owed.s(3).set(queue="mail")])
    assert [row.task_id for row in OutboxMessage.objects.order_by("pk")] == [r.id for r in results]
    assert broker.lose() == [results[0].id, results[1].id]
    assert broker.lose("mail") == [results[2].id]
    assert owed.enqueue_many([]) == []


@pytest.mark.usefixtures("quiet")
def test_enqueue_many_is_one_write() -> None:
    """As few INSERTs as the database allows; by SQLite's old limit that is 76 rows in one."""
    with CaptureQueriesContext(connection) as queries:
        owed.enqueue_many([(n,) for n in range(250)])
    inserts = [query["sql"] for query in queries if query["sql"].startswith("INSERT")]
    assert 1 <= len(inserts) <= 4
    assert len([query for query in queries if OutboxMessage._meta.db_table in query["sql"]]) == len(inserts)
    assert OutboxMessage.objects.count() == 250


@pytest.mark.parametrize("several", [True, False], ids=["in a transaction", "in autocommit"])
def test_a_caller_that_enqueues_many_publishes_the_first_and_leaves_the_rest(
    broker: Broker, caplog: Any, several: bool
) -> None:
    """It does not last until the broker has all; the relay does the others, without waiting for anything."""
    caplog.set_level("INFO", "celery_idempotent")
    with transaction.atomic() if several else nullcontext():
        results = owed.enqueue_many([(n,) for n in range(enqueue.AT_ONCE + 30)])
    ids = [result.id for result in results]
    assert broker.lose() == ids[: enqueue.AT_ONCE]
    assert "30 more messages of owed are left to the relay" in caplog.text
    assert Relay(app).once().published == 30
    assert sorted(broker.lose()) == sorted(ids[enqueue.AT_ONCE :])
    assert Relay(app).once().published == 0, "nor is any published twice"


def test_a_caller_that_enqueues_few_publishes_all(broker: Broker, caplog: Any) -> None:
    """Up to a batch, nothing is left to the relay."""
    caplog.set_level("INFO", "celery_idempotent")
    owed.enqueue_many([(n,) for n in range(enqueue.AT_ONCE)])
    assert len(broker.lose()) == enqueue.AT_ONCE
    assert "left to the relay" not in caplog.text


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: owed.enqueue(1, object()), ArgumentsNotSerializable, "owed: argument 2 is of type object"),
        (lambda: owed.enqueue(1, text={1, object}), ArgumentsNotSerializable, "owed: text is of type set"),
        (lambda: owed.enqueue(), KeyFieldError, "owed: the call does not fit"),
        (lambda: owed.enqueue(None), KeyFieldError, "owed: key field 'n' is None"),
        (lambda: owed.enqueue_many([(1,), 2]), TypeError, "owed: enqueue_many takes tuples"),
        (lambda: owed.enqueue_many([(1,), (2, object())]), ArgumentsNotSerializable, "argument 2"),
        (lambda: owed.enqueue_with((1,), task_id="mine"), TypeError, "owed: enqueue sets task_id itself"),
        (lambda: owed.enqueue_with((1,), link=object()), ArgumentsNotSerializable, "options link"),
        (lambda: owed.enqueue_with((1,), queue=object()), TypeError, "it has to be the queue's name"),
        (lambda: owed.enqueue_with((1,), queue={"name": "mail"}), TypeError, "owed: queue is {'name': 'mail'}"),
        (lambda: owed.enqueue_with((1,), headers=[("x-trace", "1")]), TypeError, "owed: headers is [("),
        (
            lambda: owed.enqueue_with((1,), headers="abc"),
            TypeError,
            "owed: headers is 'abc'; it has to be a mapping",
        ),
        (lambda: owed.enqueue_with((1,), headers={1: "x"}), TypeError, "owed: headers has 1, which is no text"),
        (lambda: owed.enqueue_with((1,), priority="high"), TypeError, "owed: priority is 'high'"),
        (lambda: owed.enqueue_with((1,), delivery_mode="x"), ValueError, "owed: delivery_mode is 'x'"),
        (lambda: owed.enqueue_with((1,), delivery_mode=True), TypeError, "owed: delivery_mode is True"),
        (lambda: owed.enqueue_with((1,), compression="nope"), ValueError, "owed: compression is 'nope'"),
        (
            lambda: owed.enqueue_with((1,), serializer="pickle"),
            ArgumentsNotSerializable,
            "owed: serializer is 'pickle'",
        ),
        (lambda: owed.enqueue_with((1,), soft_time_limit="1m"), TypeError, "a number of seconds"),
        (lambda: owed.enqueue_with((1,), countdown="soon"), TypeError, "owed: countdown is 'soon'"),
        (lambda: owed.enqueue_with((1,), eta="soon"), TypeError, "owed: eta is 'soon'"),
        (lambda: owed.enqueue_with((1,), eta="9999-12-31T23:59-12:00"), TypeError, "eta is datetime"),
        (lambda: owed.enqueue_with((1,), expires=1e15), TypeError, "owed: expires is 1000000000000000.0"),
        (lambda: owed.enqueue_with((1,), using="other"), ImproperlyConfigured, "no relay looks there"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    broker: Broker, call: Any, error: Any, text: str
) -> None:
    """A clear error that names the task and the field; the caller's transaction goes on."""
    with transaction.atomic():
        with pytest.raises(error, match="enqueue" if error is ImproperlyConfigured else "owed") as caught:
            call()
        assert text in str(caught.value)
        owed.enqueue(7)
    assert [run.get() for run in broker.work()] == ["done 7"]
