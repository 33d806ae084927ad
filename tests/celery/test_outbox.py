"""``enqueue``: a row with the caller's data, a message after the commit, nothing after a rollback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, transaction

from celery_idempotent import ArgumentsNotSerializable, IdempotentTask, KeyFieldError, desk, dispatch, outbox
from celery_idempotent.core.status import DeliveryStatus, Status
from celery_idempotent.identity import HEADER
from celery_idempotent.models import OutboxMessage
from celery_idempotent.relay import Relay
from tests.support.seed import Seed
from tests.support.servers import free_port

pytestmark = pytest.mark.django_db(transaction=True)
app = Celery("outbox", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.broker_transport_options = {"polling_interval": 0.01}


@app.task(base=IdempotentTask, key_fields=("n",), name="owed")
def owed(n: int, text: Any = "") -> str:
    return f"done {n}"


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any) -> None:
    """An empty ledger, and a broker that was never down."""
    outbox._not_before = 0.0


@pytest.fixture
def broker() -> Iterator[Broker]:
    """The messages in the broker."""
    with app.connection_for_write() as connection:
        yield Broker(connection)


class Broker:
    """Takes messages out, and has them worked off as a worker would."""

    def __init__(self, connection: Any) -> None:
        self.channel = connection.default_channel
        for queue in ("celery", "mail"):
            self.channel.queue_declare(queue, durable=True)
            self.channel.queue_purge(queue)

    def take(self, queue: str = "celery") -> list[Any]:
        """Empty the queue and return its messages."""
        found = []
        while message := self.channel.basic_get(queue, no_ack=True):
            found.append(message)
        return found

    def lose(self, queue: str = "celery") -> list[str]:
        """Throw the messages away, as a broker that is killed does, and return their task ids."""
        return [message.headers["id"] for message in self.take(queue)]

    def work(self) -> list[Any]:
        """Run what is in the queue, with the headers that a worker would see, and return the results."""
        results = []
        for message in self.take():
            args, kwargs, _ = message.decode()
            task, headers = app.tasks[message.headers["task"]], message.headers
            results.append(task.apply(args, kwargs, task_id=headers["id"], headers={HEADER: headers[HEADER]}))
        return results


def make_due() -> None:
    """Let time pass until every row is due."""
    OutboxMessage.objects.update(due_at=datetime(2020, 1, 1, tzinfo=timezone.utc))


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
    seed = Seed(owed, 1, by=owed.enqueue(1).id)
    stranger = owed.enqueue(2)
    seed.settled(DeliveryStatus.IN_DOUBT) if decision.startswith("resolve") else seed.released(100)
    desk.decide(decision, owed.key_for(1), "ann", "asked for")
    assert OutboxMessage.objects.filter(task_id=seed.asker.task_id).count() == left
    assert OutboxMessage.objects.filter(task_id=stranger.id).exists()


def test_an_outbox_that_does_not_answer_stops_no_decision(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The decision stands; the relay removes the row later."""

    def away(*_: Any) -> None:
        raise OperationalError("away")

    Seed(owed, 1, by=owed.enqueue(1).id).released(100)
    with monkeypatch.context() as patched:
        patched.setattr(outbox, "forget", away)
        assert desk.decide("cancel", owed.key_for(1), "ann", "asked for").status is Status.CANCELLED
    assert "is left to the relay: away" in caplog.text
    make_due()
    assert Relay(app).once().removed == 1


def test_what_a_process_did_not_publish_the_relay_does(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between commit and publish: due after a short grace, without asking the ledger."""
    monkeypatch.setattr(outbox, "_publish", lambda *_: None)
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
    with pytest.raises(dispatch.BrokerDown, match="does not take messages"):
        Relay(gone).once()
    assert [row.due_at for row in OutboxMessage.objects.all()] == [
        row.created_at for row in OutboxMessage.objects.all()
    ]


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


def test_enqueue_many_takes_calls_of_each_form(broker: Broker) -> None:
    """Tuples, dicts and signatures with options of their own: two INSERTs at most, in order."""
    results = owed.enqueue_many([(1, "a"), {"n": 2}, owed.s(3).set(queue="mail")])
    assert [row.task_id for row in OutboxMessage.objects.order_by("pk")] == [r.id for r in results]
    assert broker.lose() == [results[0].id, results[1].id]
    assert broker.lose("mail") == [results[2].id]
    assert owed.enqueue_many([]) == []


@pytest.mark.parametrize("several", [True, False], ids=["in a transaction", "in autocommit"])
def test_a_caller_that_enqueues_many_publishes_the_first_and_leaves_the_rest(
    broker: Broker, caplog: Any, several: bool
) -> None:
    """It does not last until the broker has all; the relay does the others, without waiting for anything."""
    caplog.set_level("INFO", "celery_idempotent")
    with transaction.atomic() if several else nullcontext():
        results = owed.enqueue_many([(n,) for n in range(outbox.AT_ONCE + 30)])
    ids = [result.id for result in results]
    assert broker.lose() == ids[: outbox.AT_ONCE]
    assert "30 more messages of owed are left to the relay" in caplog.text
    assert Relay(app).once().published == 30
    assert sorted(broker.lose()) == sorted(ids[outbox.AT_ONCE :])
    assert Relay(app).once().published == 0, "nor is any published twice"


def test_a_caller_that_enqueues_few_publishes_all(broker: Broker, caplog: Any) -> None:
    """Up to a batch, nothing is left to the relay."""
    caplog.set_level("INFO", "celery_idempotent")
    owed.enqueue_many([(n,) for n in range(outbox.AT_ONCE)])
    assert len(broker.lose()) == outbox.AT_ONCE
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
        (lambda: owed.enqueue_with((1,), queue=object()), ArgumentsNotSerializable, "options queue"),
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


def test_a_task_that_is_gone_keeps_its_messages(broker: Broker, caplog: Any) -> None:
    """Renamed or removed: nothing is published, nothing lost, and one line says what to do."""
    owed.enqueue_many([(1,), (2,)])
    broker.lose()
    OutboxMessage.objects.update(task="old.name")
    make_due()
    outcome = Relay(app).once()
    assert (outcome.published, sum(outcome.faults.values())) == (0, 2)
    assert caplog.text.count("knows no task 'old.name'") == 1
    assert {row.error[:12] for row in OutboxMessage.objects.all()} == {"this process"}
    assert Relay(app).once().faults == {}, "not again right away"

    @app.task(base=IdempotentTask, key_fields=("n",), name="old.name", email_type="owed")
    def again(n: int, text: str = "") -> str:
        return "found"

    make_due()
    assert Relay(app).once().published == 2
    assert [run.get() for run in broker.work()] == ["found", "found"]
    assert not OutboxMessage.objects.exists()


def test_a_task_that_is_not_idempotent_any_more(broker: Broker) -> None:
    """It would be published for ever: nobody would tell that it is done."""

    @app.task(name="plain-now")
    def plain(n: int) -> None: ...

    owed.enqueue(1)
    broker.lose()
    OutboxMessage.objects.update(task="plain-now")
    make_due()
    assert Relay(app).once().published == 0
    assert "not idempotent any more" in OutboxMessage.objects.get().error


OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


def _keys(settings: Any, *keys: str) -> None:
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "ENCRYPTION_KEYS": list(keys)}


def test_arguments_are_encrypted_and_keys_rotate(broker: Broker, settings: Any) -> None:
    """P7: nothing of the arguments or options is readable; a key in use is put behind the new one."""
    _keys(settings, OLD)
    owed.enqueue_with((1,), {"text": "secret token"}, headers={"also": "a secret"})
    row = OutboxMessage.objects.get()
    assert row.encrypted
    assert "secret" not in str(vars(row))
    broker.lose()
    _keys(settings, NEW, OLD)
    make_due()
    assert Relay(app).once().published == 1
    assert broker.take()[0].decode()[1] == {"text": "secret token"}


@pytest.mark.parametrize(("keys", "text"), [((), "has no key"), ((OTHER,), "no key in")])
def test_a_lost_key_loses_no_message(broker: Broker, settings: Any, keys: Any, text: str) -> None:
    """The row stays and says why; with the key back it goes out."""
    _keys(settings, OLD)
    owed.enqueue(1, text="secret")
    broker.lose()
    _keys(settings, *keys)
    make_due()
    assert sum(Relay(app).once().faults.values()) == 1
    row = OutboxMessage.objects.get()
    assert text in row.error
    assert "secret" not in row.error
    _keys(settings, OLD)
    make_due()
    assert Relay(app).once().published == 1
    assert OutboxMessage.objects.get().error == ""


def test_messages_from_before_there_was_a_key(broker: Broker, settings: Any) -> None:
    """They are sent as they are."""
    owed.enqueue(1)
    broker.lose()
    _keys(settings, NEW)
    make_due()
    assert Relay(app).once().published == 1


def test_a_serializer_of_the_project(broker: Broker) -> None:
    """Binary ones as well; one that is not accepted any more is a reason, not a loss."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="pickled", serializer="pickle")
    def pickled(n: int, when: Any) -> None: ...

    app.conf.accept_content = ["json", "pickle"]
    when = datetime(2026, 1, 1, tzinfo=timezone.utc)
    try:
        pickled.enqueue(1, {"set": {1, 2}, "when": when})
        message = broker.take()[0]
        message.accept = {"application/x-python-serialize"}
        assert message.decode()[0] == [1, {"set": {1, 2}, "when": when}]
    finally:
        app.conf.accept_content = ["json"]
    make_due()
    assert Relay(app).once().published == 0
    assert "accept_content" in OutboxMessage.objects.get().error


@pytest.mark.parametrize("where", ["call", "task"])
def test_a_serializer_that_nobody_knows_is_named(broker: Broker, where: str) -> None:
    """Bad input: it is the serializer that is wrong, whatever the arguments are."""
    options = {"serializer": "nonsense"}
    declared, given = ({}, options) if where == "call" else (options, {})

    @app.task(base=IdempotentTask, key_fields=("n",), name=f"nonsense-{where}", **declared)
    def nonsense(n: int) -> None: ...

    with pytest.raises(ArgumentsNotSerializable) as raised:
        nonsense.enqueue_with((1,), **given)
    assert f"nonsense-{where}: Celery knows no serializer 'nonsense'. Name one" in str(raised.value)
    assert "argument" not in str(raised.value)
    assert not OutboxMessage.objects.exists()


def test_eager_tasks_run_at_the_commit(broker: Broker) -> None:
    """Celery's eager mode: in the caller's process, right after the commit, and the row is done."""
    app.conf.task_always_eager = True
    try:
        with transaction.atomic():
            owed.enqueue(1)
            assert owed.entry_for(1) is None
        assert owed.entry_for(1).status is Status.SENT
        owed.enqueue_many([(n,) for n in range(2, outbox.AT_ONCE + 10)])
    finally:
        app.conf.task_always_eager = False
    assert not OutboxMessage.objects.exists()
    assert broker.take() == []
