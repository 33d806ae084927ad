"""Tasks whose messages go through the outbox, and the broker that these get into, or that loses them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from celery import Celery

from celery_idempotent import IdempotentEmailTask, IdempotentTask
from celery_idempotent.email_types.job_note import HEADER
from celery_idempotent.models import OutboxMessage

app = Celery("outbox", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.broker_transport_options = {"polling_interval": 0.01}
DAY = timedelta(days=1)


@app.task(base=IdempotentTask, key_fields=("n",), name="owed")
def owed(n: int, text: Any = "") -> str:
    """No email."""
    return f"done {n}"


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="relayed")
def relayed(n: int) -> None:
    """An email, once and for all."""


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="daily-relayed", window=DAY)
def daily(n: int) -> None:
    """An email a day."""


class Broker:
    """Takes messages out, and has them worked off as a worker would."""

    def __init__(self, connection: Any) -> None:
        self.channel = connection.default_channel
        self.empty()

    def empty(self) -> None:
        """Make and empty the queues."""
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

    def labels(self) -> list[str]:
        """Throw the messages away, and return their labels in their order."""
        return [message.headers[HEADER]["label"] for message in self.take()]

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


def lost(task: Any, n: int = 1) -> str:
    """Enqueue, publish, and let the broker lose it; it is due again. Returns the task id."""
    result = task.enqueue(n)
    OutboxMessage.objects.filter(task_id=result.id).update(tries=1)
    make_due()
    return str(result.id)


def note(task: Any, task_id: str) -> dict[str, str]:
    """Return what the message of ``task(1)`` says about itself."""
    return {"id": task_id, "key": task.key_for(1), "fingerprint": "", "label": "", "outbox": "default"}


def delivered(task: Any, task_id: str) -> Any:
    """Do what the worker does with the message of ``task(1)`` that the relay has published."""
    return task.apply((1,), task_id=task_id, headers={HEADER: note(task, task_id)})
