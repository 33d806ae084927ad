"""RQ's life cycle, translated to the ledger. For RQ 2.1 and later, alone or with django-rq.

The decorator is the guarantee, under every worker class. `IdempotentJob` adds what can be done at enqueue: the
key travels in the job's ``meta``, a call without its key fields is refused there and then, and the job's
description, which RQ logs, shows the key fields alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from copy import copy
from typing import Any

from django.db import close_old_connections
from rq import Retry, get_current_job
from rq.job import Job
from rq.scheduler import RQScheduler
from rq.timeouts import BaseTimeoutException

from ..conduct import Call, ComeBack, Ending, Next
from ..functions import Declared, DirectCall, declare, made
from ..identity import HEADER, as_note, asker_of, own_note
from ..run import current_run

logger = logging.getLogger("celery_idempotent")

_NAP = 1.0
"""Seconds that a worker waits by itself where no scheduler would bring a job back later."""


def idempotent_email(**options: Any) -> Callable[..., Any]:
    """Decorate a function that sends mail through Django: once per key. Options as for `IdempotentEmailTask`.

    Raises `ImproperlyConfigured` for options that cannot be used.
    """
    return declare(True, _perform, options)


def idempotent(**options: Any) -> Callable[..., Any]:
    """Decorate a function whose work the ledger cannot see. Options as for `IdempotentTask`."""
    return declare(False, _perform, options)


class IdempotentJob(Job):
    """A job whose key is computed at enqueue: ``Queue(…, job_class=IdempotentJob)``.

    Workers need not know it. Jobs of functions that are not idempotent are RQ's own in every way.
    """

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Job:
        """Create the job as RQ does. Raises `KeyFieldError` for a call without its key fields."""
        described = kwargs.get("description")
        job = super().create(*args, **kwargs)
        declared = _declared(job)
        if declared is not None:
            note = as_note(declared.identify(job.args, job.kwargs), job.id)
            job.meta = {**job.meta, HEADER: note}
            job.description = described or f"{declared.name}({note['label']}) {note['key']}"
        return job


class JobCall(Call):
    """One execution of an RQ job."""

    interrupts = (BaseTimeoutException,)

    def __init__(self, task: Declared, job: Job, args: Any, kwargs: Any) -> None:
        self.task = task
        self.job = job
        self.opaque = task.opaque
        self.local = self.eager = job.worker_name == "sync"  # Queue(is_async=False)
        found = own_note(job.meta, job.id) or as_note(task.identify(args, kwargs), job.id)
        self.carried = found
        self.waits = found.get("waits", 0)
        own = {**found, "id": _execution(job)}
        self.asker = asker_of(task, own, str(job.worker_name or ""), args, kwargs)

    def ending(self, error: Exception) -> Ending:
        """A returned `Retry` runs again; so does an error, as long as the job has retries left."""
        if isinstance(error, Returned):
            return error.ending()
        if isinstance(error, self.task.dont_autoretry_for):
            self.job.retries_left = 0  # for RQ, which would offer it again at once
        elif self.job.should_retry:
            return Ending(Next.RUNS_AGAIN, error, self.job.get_retry_interval())
        return Ending(Next.GIVES_UP, error)

    def note(self, outcome: dict[str, Any]) -> None:
        """Keep ``outcome`` in the job's ``meta``, where dashboards show it. One round trip."""
        self.carried = {**self.carried, "outcome": outcome["outcome"], "first_job_id": outcome["first_task_id"]}
        self._save()

    def again(self, wait: float) -> Retry:
        """Return what makes RQ run the job again in ``wait`` seconds, whatever retries it has left."""
        self.carried = {**self.carried, "waits": self.waits + 1}
        self._save()
        if not self.job.connection.exists(RQScheduler.get_locking_key(self.job.origin)):
            logger.info("no scheduler works on queue %r, so the worker waits by itself", self.job.origin)
            time.sleep(min(wait, _NAP))
            wait = 0
        return Retry(max=(self.job.number_of_retries or 0) + 1, interval=math.ceil(wait))

    def _save(self) -> None:
        self.job.meta[HEADER] = self.carried
        self.job.save_meta()  # type: ignore[no-untyped-call]


class Returned(Exception):
    """Raised in the place of a `Retry` that a body has returned: a way to run again, not a result."""

    def __init__(self, retry: Retry, job: Job, waits: int) -> None:
        super().__init__("the body returned a Retry")
        done = max((job.number_of_retries or 0) - waits, 0)  # what has been waited is not of the body's retries
        self.is_last = done >= retry.max
        self.retry = copy(retry)
        self.retry.max += waits
        self.retry.intervals = [Retry.get_interval(done, retry.intervals)]

    def ending(self) -> Ending:
        """Tell whether RQ will run it again."""
        if self.is_last:
            return Ending(Next.GIVES_UP, self)
        return Ending(Next.RUNS_AGAIN, self, self.retry.intervals[0])


def perform_job(call: JobCall, body: Callable[[], Any]) -> Any:
    """Do what ``call`` asks for, and return what RQ is to be given: a result, or a `Retry`."""

    def run() -> Any:
        result = body()
        if isinstance(result, Retry):
            raise Returned(result, call.job, call.waits)
        return result

    try:
        return made(call, run)
    except Returned as returned:
        return returned.retry
    except ComeBack as back:
        return call.again(back.wait)


def _perform(declared: Declared, args: Any, kwargs: Any, body: Callable[[], Any]) -> Any:
    job = get_current_job()
    if job is None or not _runs(job, declared):
        return made(DirectCall(declared, args, kwargs), body)
    call = JobCall(declared, job, args, kwargs)
    if call.local:
        return perform_job(call, body)
    close_old_connections()  # as Django does around a request; a worker lives long
    try:
        return perform_job(call, body)
    finally:
        close_old_connections()


def _runs(job: Job, declared: Declared) -> bool:
    """Tell whether ``job`` is this function's, and not one whose body calls the function."""
    around = current_run()
    in_body = around is not None and around.asker.task_id == _execution(job)
    found = _declared(job)
    return not in_body and found is not None and found.name == declared.name


def _declared(job: Job) -> Declared | None:
    try:
        function: Any = job.func
    except Exception:
        return None  # named by a path that only the worker can import, which finds the key then
    found = getattr(function, "declared", None)
    return found if isinstance(found, Declared) else None


def _execution(job: Job) -> str:
    """Return the id that the ledger knows. Each repetition of a repeated job is an intention of its own."""
    return job.id if job.repeats_left is None else f"{job.id}-{job.repeats_left}"
