"""Real brokers in trouble: one that hangs holds nobody up, and what it refuses takes no other message along."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from celery import Celery
from django.db import transaction
from kombu import Exchange, Queue

from celery_idempotent import IdempotentTask
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Relay
from celery_idempotent.outbox import enqueue
from celery_idempotent.outbox.publish import BrokerDown
from tests.support.servers import RabbitMQ, Redis
from tests.support.worker import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE = 1.0
"""Seconds that a broker has to answer in these tests."""


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any) -> None:
    """An empty ledger, and a broker that was never down."""
    enqueue._not_before = 0.0


def task_on(url: str, name: str, **conf: Any) -> Any:
    app = Celery(name, broker=url, backend="cache+memory://", set_as_current=False)
    app.conf.update(broker_connection_timeout=PATIENCE, **conf)

    @app.task(base=IdempotentTask, key_fields=("n",), name=name)
    def task(n: int) -> None: ...

    return task


def make_due() -> None:
    OutboxMessage.objects.update(due_at=datetime(2020, 1, 1, tzinfo=timezone.utc))


@contextmanager
def frozen(process: subprocess.Popen[Any] | None) -> Iterator[None]:
    """Have the whole group of ``process`` stand still, and go on in the end.

    On a busy machine some threads go on working for a while after the signal: RabbitMQ's for 25 ms.
    """
    assert process is not None, "it does not run"
    members = [place for place in Path("/proc").glob("[0-9]*") if _group(place) == process.pid]
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not any(_is_at_work(stat) for one in members for stat in one.glob("task/*/stat")), 10)
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)


def _group(place: Path) -> int | None:
    try:
        return os.getpgid(int(place.name))
    except ProcessLookupError:
        return None


def _is_at_work(stat: Path) -> bool:
    """Tell whether a thread is neither stopped, nor a zombie, nor gone; ``stat`` is as in proc(5)."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "TZ"
    except OSError:
        return False


@pytest.mark.process
@pytest.mark.parametrize("known", [True, False], ids=["over an open connection", "over a new one"])
def test_a_broker_that_hangs_holds_no_request_up(known: bool, caplog: Any) -> None:
    """The commit stands and the request goes on after the broker's timeout; the next ones do not even try."""
    with Redis() as server:
        task = task_on(server.url, f"held-up-{known}")
        if known:
            task.enqueue(0)
        with frozen(server.process):
            before = time.monotonic()
            for n in range(1, 4):
                with transaction.atomic():
                    task.enqueue(n)
            assert time.monotonic() - before < 8 * PATIENCE
    assert caplog.text.count("waits for the relay") == 1
    assert OutboxMessage.objects.filter(tries=0).count() == 3


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_relay_whose_broker_hangs_can_be_told_to_stop(request: Any, broker: str) -> None:
    """It waits for the broker no longer than the timeout; nothing of what it had in hand is lost."""
    server = request.getfixturevalue(broker)
    task = task_on(server.url, f"stopped-{broker}")
    task.enqueue(0)
    make_due()
    relay = Relay(task.app)
    assert relay.once().published == 1, "it has a connection"
    make_due()
    told = Timer(0.3, relay.stop.set)
    with frozen(server.process):
        told.start()
        before = time.monotonic()
        relay.run(0.1)
        assert time.monotonic() - before < 10 * PATIENCE
    make_due()
    assert Relay(task.app).once().published == 1


def test_a_broker_that_hangs_is_down_for_the_relay(rabbitmq: RabbitMQ) -> None:
    """What is only in the buffers of a socket has not been published: the broker has to say that it has it."""
    task = task_on(rabbitmq.url, "unconfirmed")
    task.enqueue(0)
    make_due()
    relay = Relay(task.app)
    assert relay.once().published == 1
    make_due()
    with frozen(rabbitmq.process), pytest.raises(BrokerDown):
        relay.once()
    assert OutboxMessage.objects.get().tries == 2


@pytest.mark.parametrize(
    "options",
    [{"exchange": "nowhere", "routing_key": "x"}, {"user_id": "somebody"}],
    ids=["no exchange", "no such user"],
)
def test_a_message_that_the_broker_refuses_takes_no_other_along(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """RabbitMQ closes the channel for it, some time later; it is this message that has the reason then."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)
    name = f"refused-{'-'.join(options)}"
    task = task_on(rabbitmq.url, name, task_default_queue=name)
    with task.app.connection_for_write() as connection:
        channel = connection.default_channel
        Queue(name, Exchange(name), routing_key=name, channel=channel).declare()
        task.enqueue_with((0,), **options)
        task.enqueue_many([(n,) for n in range(1, 6)])
        make_due()
        outcome = Relay(task.app).once()
        assert (outcome.published, outcome.faults.total()) == (5, 1)
        assert "Celery refused it" in OutboxMessage.objects.get(tries=0).error
        assert OutboxMessage.objects.get(tries=0).label == "n=0"
        arrived = 0
        while channel.basic_get(name, no_ack=True):
            arrived += 1
    assert arrived == 5
