"""``enqueue``: a row with the caller's data, a message after the commit, nothing after a rollback."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from django.db import OperationalError, transaction

from celery_idempotent import IdempotentTask
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations import decisions
from celery_idempotent.operations.relay import Relay
from celery_idempotent.outbox import enqueue, publish
from tests.celery.outbox_tasks import Broker, app, make_due, owed
from tests.support.seeded_entries import Seed
from tests.support.servers import free_port

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_commit_publishes_and_the_end_removes(broker: Broker) -> None:
    """One row in the transaction, one message after it, under the id that the caller has; in the end no row."""
    with transaction.atomic():
        result = owed.enqueue(1, text="hello")
        assert broker.take() == []
        row = OutboxMessage.objects.get()
    assert (row.task_id, row.task, row.key, row.tries) == (result.id, "owed", owed.key_for(1), 0)
    row = OutboxMessage.objects.get()
    assert row.tries == 1
    assert row.published_at is not None
    assert row.due_at > row.published_at + timedelta(seconds=800)
    assert [run.get() for run in broker.work()] == ["done 1"]
    assert owed.entry_for(1).owner == result.id
    assert not OutboxMessage.objects.exists()


def undone(*calls: Any) -> None:
    """Enqueue ``calls`` in an atomic block that fails."""
    try:
        with transaction.atomic():
            assert len(owed.enqueue_many(calls)) == len(calls)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def test_a_rollback_leaves_nothing(broker: Broker) -> None:
    """No row, no message, also from an inner block alone."""
    undone((1,), (2,))
    assert not OutboxMessage.objects.exists()
    with transaction.atomic():
        owed.enqueue(3)
        undone((4,))
    assert OutboxMessage.objects.count() == 1
    assert [run.get() for run in broker.work()] == ["done 3"]


def test_without_a_transaction_it_is_published_at_once(broker: Broker) -> None:
    """Autocommit is a transaction of one statement."""
    owed.enqueue(1)
    assert len(broker.take()) == 1


def test_a_message_that_was_lost_is_published_again_under_its_own_id(broker: Broker) -> None:
    """P2: by the relay, after ``REDELIVER_AFTER``, not before; each time twice as late."""
    result = owed.enqueue(1)
    assert broker.lose() == [result.id]
    assert Relay(app).once().published == 0, "not due yet"
    for tries in (2, 3):
        make_due()
        assert Relay(app).once().published == 1
        assert broker.lose() == [result.id]
        row = OutboxMessage.objects.get()
        assert row.tries == tries
        wait = (row.due_at - row.published_at).total_seconds()
        assert wait == pytest.approx(900 * 2 ** (tries - 1), abs=2)
    make_due()
    Relay(app).once()
    assert [run.get() for run in broker.work()] == ["done 1"]
    assert not OutboxMessage.objects.exists()


def test_any_number_of_copies_is_one_email(broker: Broker) -> None:
    """P1: the same task id is one task to the ledger, whatever publishes it how often."""
    calls = []

    @app.task(base=IdempotentTask, key_fields=("n",), name="copied")
    def copied(n: int) -> int:
        calls.append(n)
        return n

    copied.enqueue(1)
    for _ in range(4):
        make_due()
        assert Relay(app).once().published == 1
    assert [run.get() for run in broker.work()] == [1] * 5
    assert calls == [1]


def test_the_row_of_a_duplicate_goes_with_its_answer(broker: Broker) -> None:
    """Nothing is left of it that could be published when somebody reopens the key."""
    for _ in range(3):
        owed.enqueue(1)
    assert [run.get() for run in broker.work()] == ["done 1"] * 3
    assert not OutboxMessage.objects.exists()
    Seed(owed, 2).cancelled()
    owed.enqueue(2)
    assert [run.get() for run in broker.work()] == [None]
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize(
    ("decision", "left"), [("cancel", 0), ("release", 1), ("resolve_sent", 1), ("resolve_not_sent", 1)]
)
def test_arguments_go_with_the_decision_that_ends_an_email(broker: Broker, decision: str, left: int) -> None:
    """Withdrawn, its own message goes at once. Others keep theirs: a body may have to go on with it."""
    seed = Seed(owed, 1, by=owed.enqueue(1).id, send_timeout=0.0)
    stranger = owed.enqueue(2)
    seed.settled(DeliveryStatus.IN_DOUBT) if decision.startswith("resolve") else seed.released(100)
    decisions.decide(decision, owed.key_for(1), "ann", "asked for")
    assert OutboxMessage.objects.filter(task_id=seed.claimant.task_id).count() == left
    assert OutboxMessage.objects.filter(task_id=stranger.id).exists()


def test_an_outbox_that_does_not_answer_stops_no_decision(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The decision stands; the relay removes the row later."""

    def away(*_: Any) -> None:
        raise OperationalError("away")

    Seed(owed, 1, by=owed.enqueue(1).id).released(100)
    with monkeypatch.context() as patched:
        patched.setattr(enqueue, "forget", away)
        assert decisions.decide("cancel", owed.key_for(1), "ann", "asked for").status is Status.CANCELLED
    assert "is left to the relay: away" in caplog.text
    make_due()
    assert Relay(app).once().removed == 1


def test_what_a_process_did_not_publish_the_relay_does(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between commit and publish: due after a short grace, without asking the ledger."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)
    result = owed.enqueue(1)
    assert Relay(app).once().published == 0, "its own process is about to"
    make_due()
    assert Relay(app).once().published == 1
    assert broker.lose() == [result.id]


def test_a_broker_that_is_down_fails_no_request(broker: Broker, caplog: Any) -> None:
    """The commit stands, the row is due at once, and the next requests do not even try for a while."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    gone = Celery("gone", broker=url, backend="cache+memory://", set_as_current=False)

    @gone.task(base=IdempotentTask, key_fields=("n",), name="undelivered")
    def undelivered(n: int) -> None: ...

    before = datetime.now(timezone.utc)
    for n in range(3):
        with transaction.atomic():
            undelivered.enqueue(n)
    assert (datetime.now(timezone.utc) - before).total_seconds() < 8
    assert caplog.text.count("waits for the relay") == 1
    for row in OutboxMessage.objects.all():
        assert (row.tries, row.due_at) == (0, row.created_at)
    with pytest.raises(publish.BrokerDown, match="does not take messages"):
        Relay(gone).once()
    assert [row.due_at for row in OutboxMessage.objects.all()] == [
        row.created_at for row in OutboxMessage.objects.all()
    ]


def test_without_autocommit_the_relay_publishes(broker: Broker) -> None:
    """A project that commits by hand has no moment "after the commit": the row waits for the relay."""
    transaction.set_autocommit(False)
    try:
        owed.enqueue(1)
        transaction.commit()
        owed.enqueue(2)
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert broker.take() == []
    make_due()
    assert Relay(app).once().published == 1


def test_eager_tasks_run_at_the_commit(broker: Broker) -> None:
    """Celery's eager mode: in the caller's process, right after the commit, and the row is done."""
    app.conf.task_always_eager = True
    try:
        with transaction.atomic():
            owed.enqueue(1)
            assert owed.entry_for(1) is None
        assert owed.entry_for(1).status is Status.SENT
        owed.enqueue_many([(n,) for n in range(2, enqueue.AT_ONCE + 10)])
    finally:
        app.conf.task_always_eager = False
    assert not OutboxMessage.objects.exists()
    assert broker.take() == []
