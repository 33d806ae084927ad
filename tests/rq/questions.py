"""Functions that tests of RQ have called in the project: enqueue a job, and look what became of it.

A function goes by its name in `tests.rq.app`. Options are RQ's; ``retry`` and ``repeat`` hold those of its
`Retry` and `Repeat`.
"""

from __future__ import annotations

from typing import Any

from rq import Repeat, Retry
from rq.job import Job

from tests.rq import app as shop
from tests.rq.app import abandoned, connection, emails, outcome, repeated, status_of

kept: dict[str, Job] = {}
"""Jobs that a test comes back to, by the name that it gave them."""


def enqueue(function: str, *args: Any, **options: Any) -> Job:
    """Enqueue a job of this function."""
    made = {"retry": Retry, "repeat": Repeat}
    options = {
        name: made[name](**value) if value and name in made else value for name, value in options.items()
    }
    return emails.enqueue(getattr(shop, function), *args, **options)


def find_status(function: str, order: int) -> str | None:
    """Return the status of the entry, or None."""
    return status_of(getattr(shop, function), order)


def run(function: str, *args: Any, **options: Any) -> list[Any]:
    """Enqueue a job and wait; return its status, and its result or its error's name."""
    return outcome(enqueue(function, *args, **options))


def run_twice(function: str, *args: Any) -> list[Any]:
    """Return the outcomes of two jobs that run one after the other."""
    return [run(function, *args) for _ in range(2)]


def run_and_look(function: str, order: int, *args: Any, **options: Any) -> list[Any]:
    """Return the outcome of a job, and the entry's status."""
    return [run(function, order, *args, **options), find_status(function, order)]


def run_and_look_closer(function: str, order: int, *args: Any, **options: Any) -> list[Any]:
    """Return the outcome of a job, the entry's status, the job's id, and how many retries it has left."""
    job = enqueue(function, order, *args, **options)
    return [outcome(job), find_status(function, order), job.id, job.retries_left]


def repeat(function: str, *args: Any, **options: Any) -> None:
    """Enqueue a job and wait until it has been repeated for the last time."""
    repeated(enqueue(function, *args, **options))


# -- jobs that a test comes back to ----------------------------------------------------------------------------


def keep(name: str, function: str, *args: Any, **options: Any) -> str:
    """Enqueue a job, keep it under ``name``, and return its id."""
    kept[name] = enqueue(function, *args, **options)
    return str(kept[name].id)


def wait_for(name: str) -> list[Any]:
    """Return the outcome of the job kept as ``name``."""
    return outcome(kept[name])


def look_at(name: str) -> str:
    """Return how the job kept as ``name`` stands, as RQ tells it."""
    return str(kept[name].get_status().value)


def count_retries(name: str) -> int | None:
    """Return how often the job kept as ``name`` was tried again."""
    kept[name].refresh()
    return kept[name].number_of_retries


def read_error(name: str) -> str | None:
    """Return the text of the error with which the job kept as ``name`` failed."""
    return kept[name].latest_result().exc_string


# -- the queue -------------------------------------------------------------------------------------------------


def empty_queue() -> None:
    """Forget all jobs, and the lock of a scheduler that was killed, which would hold the next one up."""
    emails.empty()
    connection.delete("rq:scheduler-lock:emails")


def count_unfinished() -> list[int]:
    """Return how many jobs wait, and how many are under way."""
    return [emails.count, len(emails.started_job_registry)]


def give_up_and_wait_for(name: str) -> list[Any]:
    """Have RQ find the jobs of vanished workers, and return the outcome of the job kept as ``name``."""
    abandoned()
    return wait_for(name)
