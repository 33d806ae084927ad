"""The functions that the RQ tests run in real workers; ``confirm`` is Celery's ``confirm``, by its key."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from smtplib import SMTPException
from typing import Any

from asgiref.sync import sync_to_async
from django.core.mail import EmailMessage
from redis import Redis
from rq import Queue, Repeat, Retry, SimpleWorker, get_current_job  # noqa: F401
from rq.intermediate_queue import IntermediateQueue
from rq.job import Callback, Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer  # noqa: F401

from celery_idempotent.contrib.rq import IdempotentJob, idempotent, idempotent_email
from tests.acceptance import app as celery_shop  # noqa: F401
from tests.acceptance import crash
from tests.acceptance.app import DIRECTORY, SEND_TIMEOUT, note, quietly, send

connection = Redis.from_url(os.environ.get("TEST_BROKER", "redis://127.0.0.1:1/0"))
emails = Queue("emails", connection=connection, job_class=IdempotentJob)
plain = Queue("emails", connection=connection)
quiet: dict[str, Any] = {"lease": 2, "send_timeout": SEND_TIMEOUT}


# -- the functions ---------------------------------------------------------------------------------------------


@idempotent_email(key_fields=("order",), email_type="confirmation", **quiet)
def confirm(order: int, to: str = "ann@example.com") -> dict[str, Any]:
    """The plain case: the same email as Celery's task of that name."""
    note(f"confirm {order}")
    crash.at("in-body")
    EmailMessage("Your order", f"Order {order}", to=[to]).send()
    crash.at("after-send")
    job = get_current_job()
    return {"order": order, "by": job.id if job else None}


@idempotent_email(key_fields=("order",), **quiet)
def stubborn(order: int, fail_before: int = 0, fail_after: int = 0) -> int:
    """Raises in its first runs, before or after the send."""
    runs = counted(f"stubborn {order}")
    if runs <= fail_before:
        raise SMTPException("before the send")
    send(order)
    if runs <= fail_before + fail_after:
        raise ConnectionError("after the send")
    return runs


@idempotent_email(key_fields=("order",), **quiet)
def returning(order: int, times: int = 0, max: int = 1, interval: Any = 0) -> Any:
    """Returns RQ's Retry in its first runs, and sends all the same."""
    send(order)
    runs = counted(f"returning {order}")
    return Retry(max=max, interval=interval) if runs <= times else f"after {runs}"


@idempotent_email(key_fields=("order",), deferred_retries=2, **quiet)
def swallowing(order: int) -> str:
    """Swallows what goes wrong with its mail."""
    return quietly(order)


@idempotent(key_fields=("order",), lease=2, send_timeout=3)
def opaque(order: int, seconds: float = 0) -> str:
    """A body that the ledger cannot see into."""
    note(f"opaque {order}")
    crash.at("opaque-body")
    time.sleep(seconds)
    return f"done {order}"


@idempotent_email(key_fields=("order",), **quiet)
def dawdling(order: int, seconds: float = 0) -> str:
    """Renders for a while, the first time."""
    if counted(f"dawdling {order}") == 1:
        time.sleep(seconds)
    send(order)
    return "sent"


@idempotent_email(key_fields=("order",), window=timedelta(seconds=1), **quiet)
def reminder(order: int) -> str:
    """May be sent again a second after the last acceptance."""
    send(order)
    return "reminded"


@idempotent_email(key_fields=("order",), on_mismatch="raise", **quiet)
def particular(order: int, text: str) -> str:
    """Refuses the same key with another text."""
    send(order)
    return text


@idempotent_email(key_fields=("order",), **quiet)
def unserialisable(order: int) -> Any:
    """Returns what neither JSON nor pickle can keep."""
    send(order)
    return lambda: order


@idempotent_email(key_fields=("order",), **quiet)
async def awaiting(order: int) -> str:
    """A coroutine function."""
    await sync_to_async(send)(order)
    return "awaited"


@idempotent_email(key_fields=("order",), **quiet)
def outer(order: int) -> list[Any]:
    """Calls another idempotent function, and itself, from its body."""
    send(order)
    if order < 0:
        return ["inner", order]
    return [confirm(order), outer(-order)]


def ordinary(order: int) -> Any:
    """No idempotent function, but it calls one."""
    return confirm(order)


def noted(*args: Any) -> None:
    """A dependant: says that it ran."""
    note("noted")


def succeeded(job: Job, connection: Any, result: Any) -> None:
    """A success callback: says what it was given."""
    note(f"succeeded {result}")


def counted(name: str) -> int:
    """Note ``name`` and return how often it has been noted."""
    note(name)
    with open(f"{DIRECTORY}/bodies", encoding="utf-8") as stream:
        return sum(line.startswith(f"{name} ") for line in stream)


# -- what tests ask --------------------------------------------------------------------------------------------

keep: dict[str, Any] = {}
"""What a test keeps between two of its questions."""


def outcome(job: Job, timeout: float = 60) -> list[Any]:
    """Wait until ``job`` is over; return its status and its result, or its error's name."""
    end = time.monotonic() + timeout
    while job.get_status() not in (JobStatus.FINISHED, JobStatus.FAILED):
        assert time.monotonic() < end, (job.get_status(), job.meta)
        time.sleep(0.02)
    job.refresh()
    if job.get_status() is JobStatus.FINISHED:
        return ["finished", job.return_value()]
    return ["failed", error_of(job)]


def repeated(job: Job, timeout: float = 60) -> None:
    """Wait until ``job`` has ended for the last time: each of its ends leaves a result."""
    end = time.monotonic() + timeout
    wanted = 1 + job.repeats_left
    while sum(result.type is Result.Type.SUCCESSFUL for result in job.results()) < wanted:
        assert time.monotonic() < end, (job.get_status(), job.meta)
        time.sleep(0.02)


def error_of(job: Job) -> str:
    """Return the name of the error that ``job`` failed with, as RQ tells it."""
    lines = str(job.latest_result().exc_string or "").strip().splitlines()
    return lines[-1].split(":")[0].split(" ")[0].rpartition(".")[2] if lines else ""


def status_of(function: Any, *args: Any) -> str | None:
    """Return the status of the entry, or None."""
    entry = function.entry_for(*args)
    return entry.status.value if entry else None


def abandoned() -> None:
    """Do what a worker's maintenance does some minutes after another worker has vanished."""
    StartedJobRegistry("emails", connection=connection).cleanup(time.time() + 10_000)


def tidy() -> None:
    """As `abandoned`, and for jobs whose worker vanished between taking and starting them."""
    abandoned()
    stuck = IntermediateQueue(emails.key, connection=connection)
    for job_id in stuck.get_job_ids():
        connection.set(stuck.get_first_seen_key(job_id), time.time() - 10_000)
    stuck.cleanup(SimpleWorker([emails], connection=connection), emails)


def left() -> list[int]:
    """Return how many tasks and jobs are waiting or under way, place by place."""
    at_celery = [connection.llen("celery"), connection.hlen("unacked")]
    stuck = IntermediateQueue(emails.key, connection=connection)
    registries = [emails.started_job_registry, emails.scheduled_job_registry]
    return [*at_celery, emails.count, len(stuck.get_job_ids()), *map(len, registries)]


def on_success() -> Callback:
    """Return a success callback."""
    return Callback(succeeded)
