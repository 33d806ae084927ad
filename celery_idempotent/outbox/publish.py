"""Publish rows of the outbox under their own task ids, and note what became of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from kombu import pools
from kombu.exceptions import OperationalError

from ..conf import conf
from ..email_types.call_keys import Identity
from ..email_types.job_note import HEADER, JobNote
from ..models import OutboxMessage
from . import rows as store
from .payload import Unsendable, unpack, unseal

logger = logging.getLogger("celery_idempotent")

OUTBOX = "outbox"
"""What the note in a message's headers calls the database that has its row."""
_QUICKLY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
"""A stale connection is replaced; a broker that is away is the relay's to wait for, not a request's."""
_TIMEOUTS = ("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout")
"""Transport options that end the wait for a broker that hangs: of Redis, and of RabbitMQ."""
_PATIENCE = 4.0
"""Seconds; what Celery has for ``broker_connection_timeout``."""
_LONGEST = 86_400.0


class BrokerDown(Exception):
    """Raised when the broker does not take messages. The rows wait."""


class _UnknownTask(Unsendable):
    """Raised for a message of a task that this process does not know. Another one may."""


@dataclass
class Sent:
    """What became of messages."""

    published: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Task name and reason of those that cannot be published."""


def redeliver_in(tries: int) -> float:
    """Return the seconds after which a message that was published ``tries`` times is looked at again.

    Twice as long each time: what waits in a long queue is not lost, and copies would make that queue longer.
    """
    first = conf.redeliver_after
    return float(min(first * 2.0 ** min(tries - 1, 30), max(first, _LONGEST)))


def send(
    app: Celery,
    alias: str,
    rows: Sequence[OutboxMessage],
    stop: Callable[[], bool] = lambda: False,
    confirmed: bool = False,
) -> Sent:
    """Publish ``rows`` in their order until ``stop()``, and note what became of each. Raises `BrokerDown`.

    With ``confirmed``, RabbitMQ has to say that it has each of them. Otherwise it closes the channel for one
    that it refuses when others are under way already, and those are lost with it.
    """
    outcome, left, done = Sent(), list(rows), []
    try:
        with _producer(app, confirmed) as producer:
            while left and not stop():
                row = left[0]
                try:
                    hand_over(app, alias, row, producer)
                    done.append(row)
                except (OperationalError, OSError):
                    raise  # the broker's: it holds up all of them
                except Exception as error:  # the row's own: the others go on
                    # Its own relay may only be late: for that one it stays due.
                    seconds = 0.0 if isinstance(error, _UnknownTask) else conf.redeliver_after
                    reason = str(error) if isinstance(error, Unsendable) else _unforeseen(row, error)
                    store.wait(alias, [row], seconds, reason)
                    outcome.faults.append((row.task, reason))
                left.pop(0)
    finally:
        store.published(alias, done, redeliver_in)
        store.give_back(alias, left)
    outcome.published = len(done)
    return outcome


def _unforeseen(row: OutboxMessage, error: Exception) -> str:
    """Return what is said of a message that made something fail; the log has the traceback."""
    logger.exception("outbox: message %s of %s cannot be published", row.task_id, row.task)
    return (
        f"it cannot be made into a message ({type(error).__name__}): its row may be damaged. The log says more"
    )


@contextmanager
def _producer(app: Celery, confirmed: bool) -> Iterator[Any]:
    """Yield a pooled producer that does not wait for a broker. Errors of the broker become `BrokerDown`.

    ``broker_connection_timeout`` is how long one has for an answer, unless the project says otherwise.
    """
    timeouts = dict.fromkeys(_TIMEOUTS, float(app.conf.broker_connection_timeout or _PATIENCE))
    sure = {"confirm_publish": True} if confirmed else {}
    options = {**timeouts, **sure, **(app.conf.broker_transport_options or {}), **_QUICKLY}
    try:
        with pools.producers[app.connection_for_write(transport_options=options)].acquire(
            block=True
        ) as producer:
            yield producer
    except (OperationalError, OSError) as error:
        raise BrokerDown(f"the broker does not take messages: {type(error).__name__}: {error}") from error


def hand_over(app: Celery, alias: str, row: OutboxMessage, producer: Any = None) -> None:
    """Publish one message; eager mode needs no ``producer``. Raises `Unsendable`, or what the broker raises."""
    task = task_of(app, row)
    args, kwargs, options = unpack(unseal(row.payload, row.encrypted), app)
    note = JobNote.of(Identity(row.key, row.fingerprint, row.label), row.task_id).with_more(**{OUTBOX: alias})
    headers = {**(options.pop("headers", None) or {}), HEADER: note.to_carry()}
    try:
        task.apply_async(
            args,
            kwargs,
            task_id=row.task_id,
            headers=headers,
            producer=producer,
            retry=producer is not None,
            retry_policy=_QUICKLY,
            **options,
        )
    except (OperationalError, OSError):
        raise
    except Exception as error:
        if app.conf.task_always_eager:
            raise
        raise Unsendable(
            f"Celery refused it ({type(error).__name__}). Its options may be the reason"
        ) from error


def task_of(app: Celery, row: OutboxMessage) -> Any:
    """Return the task of ``row``. Raises `Unsendable` for one that is gone, or is no longer idempotent."""
    task = app.tasks.get(row.task)
    if task is None:
        raise _UnknownTask(
            f"this process knows no task {row.task!r}. Another app's: run a relay there. Renamed: register the "
            "old name as well until the outbox is empty. Removed: delete these messages"
        )
    if not hasattr(task, "key_fields"):
        raise Unsendable(
            f"task {row.task!r} is not idempotent any more: nobody would know when its messages are done"
        )
    return task
