"""Functions that the tests of a job's life cycle have called in the project."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from rq import Queue, Retry, exceptions
from rq.job import Job
from rq.serializers import JSONSerializer

from celery_idempotent.contrib.rq import IdempotentJob
from tests.rq.app import (
    confirm,
    connection,
    dawdling,
    emails,
    noted,
    on_success,
    outcome,
    plain,
    reminder,
    returning,
    status_of,
    stubborn,
    unserialisable,
)

NOTE = "celery_idempotent"
"""The name of our note in a job's meta."""


def wait_until(condition: Callable[[], Any], patience: float = 30) -> None:
    """Wait until ``condition`` is true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"not within {patience} s"
        time.sleep(0.01)


# -- duplicates ------------------------------------------------------------------------------------------------


def enqueue_in_all_ways(order: int) -> list[Any]:
    """Return the outcomes of an order's job and of its duplicates, enqueued in every way there is."""
    wanted = outcome(emails.enqueue(confirm, order))
    others = [
        emails.enqueue(confirm, order=order),
        plain.enqueue(confirm, order, "ann@example.com"),
        emails.enqueue("tests.rq.app.confirm", order),
        plain.enqueue("tests.rq.app.confirm", order),
    ]
    last = emails.enqueue(confirm, order, on_success=on_success())
    outcome(emails.enqueue(noted, depends_on=last))
    return [wanted, *(outcome(job) for job in (*others, last))]


def race(order: int) -> list[Any]:
    """Run ten jobs for one order, some with a retry; return outcomes, the retries left and spent, notes.

    The last answer is whether every note names the one job that has sent.
    """
    first = emails.enqueue(dawdling, order, 1.5)
    others = [emails.enqueue(dawdling, order, 1.5, retry=Retry(1)) for _ in range(4)]
    others += [emails.enqueue(dawdling, order, 1.5) for _ in range(5)]
    jobs = [first, *others]
    done = [outcome(job) for job in jobs]
    notes = {job.id: job.meta[NOTE] for job in jobs}
    named = {note["first_job_id"] for note in notes.values()}
    return [
        done,
        [job.retries_left for job in others],
        sum(job.number_of_retries or 0 for job in jobs),
        sorted(note["outcome"] for note in notes.values()),
        named == {job_id for job_id, note in notes.items() if note["outcome"] == "sent"},
    ]


def lose_the_result(order: int) -> list[Any]:
    """Run two jobs whose result cannot be kept; return how each ended, and the entry's status."""
    jobs = [emails.enqueue(unserialisable, order) for _ in range(2)]
    return [outcome(jobs[0])[0], outcome(jobs[1]), status_of(unserialisable, order)]


def repeat_after_the_job_has_gone(order: int) -> list[Any]:
    """Run a job that RQ forgets at once, and return the outcome of the next one."""
    job = emails.enqueue(confirm, order, result_ttl=0)
    wait_until(lambda: not job.connection.exists(job.key))
    return outcome(emails.enqueue(confirm, order))


# -- retries ---------------------------------------------------------------------------------------------------


def use_up_the_retries(order: int) -> list[Any]:
    """Run a job that fails more often than it may, and another one; return the outcomes of both."""
    job = emails.enqueue(stubborn, order, 3, retry=Retry(1))
    first = [outcome(job), status_of(stubborn, order)]
    return [first, outcome(emails.enqueue(stubborn, order, 2))]


def duplicate_during_the_backoff(order: int) -> list[Any]:
    """Enqueue a duplicate while the first job has a retry scheduled; return both outcomes and the note."""
    first = emails.enqueue(stubborn, order, 1, retry=Retry(1, interval=2))
    wait_until(lambda: first.is_scheduled or first.is_finished)
    second = emails.enqueue(stubborn, order, 1)
    return [outcome(first), outcome(second), second.meta[NOTE]["outcome"]]


def return_retry(order: int, times: int, most: int) -> list[Any]:
    """Run a body that returns RQ's Retry; return the outcome, the entry's status, and the number of retries."""
    job = emails.enqueue(returning, order, times, most, [0, 1])
    return [outcome(job), status_of(returning, order), job.number_of_retries]


def wait_for_a_lease_and_return_retry(order: int) -> list[Any]:
    """Have one job killed, and run another; return both outcomes, and whether that one was tried repeatedly."""
    killed = outcome(emails.enqueue(returning, order, 1, 1))
    job = emails.enqueue(returning, order, 1, 1)
    return [killed, outcome(job), job.number_of_retries > 1]


def lose_the_reply(order: int) -> list[Any]:
    """Run two jobs with retries, the first into doubt; return the outcomes and the entry's status."""
    jobs = [emails.enqueue(stubborn, order, retry=Retry(5, interval=30)) for _ in range(2)]
    return [[outcome(job) for job in jobs], status_of(stubborn, order)]


def requeue(order: int) -> list[Any]:
    """Run a job that fails, and requeue it twice by RQ's command; return outcomes and the entry's status."""
    job = emails.enqueue(stubborn, order, 1, 1)
    first = outcome(job)
    return [first, _requeued(job), _requeued(job), status_of(stubborn, order)]


def _requeued(job: Job) -> list[Any]:
    command = ["rq.cli", "requeue", "--queue", "emails", "--url", os.environ["TEST_BROKER"], job.id]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    return outcome(job)


# -- jobs of every kind ----------------------------------------------------------------------------------------


def enqueue_many(order: int) -> list[Any]:
    """Enqueue three jobs at once; return their outcomes, the keys in their notes, and the key."""
    jobs = emails.enqueue_many([Queue.prepare_data(confirm, (order,)) for _ in range(3)])
    return [
        [outcome(job) for job in jobs],
        [job.meta[NOTE]["key"] for job in jobs],
        confirm.key_for(order),
    ]


def enqueue_in_json(order: int) -> list[Any]:
    """Run jobs with JSON's serializer, one of which waits; return outcomes, waiting, and the lack of a note."""
    json_queue = Queue("json", connection=connection, job_class=IdempotentJob, serializer=JSONSerializer)
    running = emails.enqueue(dawdling, order, 1)
    wait_until(lambda: running.is_started or running.is_finished)
    waiting = json_queue.enqueue(dawdling, order, 1)
    job = json_queue.enqueue(confirm, order)
    return [
        outcome(running),
        outcome(waiting),
        waiting.number_of_retries > 0,
        outcome(job)[0],
        job.meta == {},
    ]


def read_what_is_stored(order: int, to: str) -> list[Any]:
    """Return what RQ keeps of a job before and after its run, and of one that was enqueued by its path."""
    job = emails.enqueue(confirm, order, to=to)
    first = [job.description, job.meta]
    outcome(job)
    again = emails.enqueue("tests.rq.app.confirm", order, to=to)
    outcome(again)
    return [first, job.description, job.meta, again.description, again.meta]


# -- times and ids ---------------------------------------------------------------------------------------------


def enqueue_for_later(order: int) -> list[Any]:
    """Return the outcomes of jobs in a second, at a time, and at once."""
    jobs = [
        emails.enqueue_in(timedelta(seconds=1), confirm, order),
        emails.enqueue_at(datetime.now(timezone.utc) + timedelta(seconds=1), confirm, order),
        emails.enqueue(confirm, order),
    ]
    return [outcome(job) for job in jobs]


def use_one_id_again(order: int, other: int) -> list[Any]:
    """Return the outcomes of an order, of another one, and of the first again later, all under one job id."""
    mine = f"daily-{order}"
    first = outcome(plain.enqueue(reminder, order, job_id=mine))
    second = outcome(plain.enqueue(reminder, other, job_id=mine))
    time.sleep(1.2)
    return [first, second, outcome(plain.enqueue(reminder, order, job_id=mine))]


def enqueue_unique(order: int) -> list[Any]:
    """Return whether RQ knows unique jobs, what it says of a second one, and the outcomes before and after."""
    unique = hasattr(exceptions, "DuplicateJobError")
    options = {"job_id": f"unique-{order}", **({"unique": True} if unique else {})}
    job = emails.enqueue(confirm, order, **options)
    try:
        twice = emails.enqueue(confirm, order, **options).id
    except Exception as error:
        twice = type(error).__name__
    first = outcome(job)
    job.delete()
    return [unique, twice, first, outcome(emails.enqueue(confirm, order, **options))]
