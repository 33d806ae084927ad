"""RQ's life cycle, translated to the ledger.

For RQ 2.8 and later, alone or with django-rq.

The decorator is the guarantee, under every worker class. `IdempotentJob` adds what can be done at enqueue: the
key travels in the job's ``meta``, a call without its key fields is refused there and then, and the job's
description, which RQ logs, shows the key fields alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections
from redis.exceptions import RedisError
from rq import Retry, get_current_job
from rq.exceptions import ShutDownImminentException
from rq.job import Job
from rq.scheduler import RQScheduler
from rq.timeouts import BaseTimeoutException

from ..email_types.email_type import email_type_of
from ..email_types.job_note import HEADER, JobNote
from ..email_types.options import FunctionOptions
from ..exceptions import KeyFieldError
from ..execution.call import AfterBody, Call, Ending, Snooze
from ..execution.functions import Body, Declared, Decorator, DirectCall, claim_and_run, declare
from ..execution.run import is_inside

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

__all__ = ["IdempotentJob", "idempotent", "idempotent_email"]

logger = logging.getLogger("celery_idempotent")

_NAP = 1.0
"""Seconds that a worker waits by itself where no scheduler would bring a job back later."""


def idempotent_email(**options: Unpack[FunctionOptions]) -> Decorator:
    """Decorate a function that sends mail through Django: once per key. Options as for `IdempotentEmailTask`.

    Raises `ImproperlyConfigured` for options that cannot be used.
    """
    return declare(True, _perform, options)


def idempotent(**options: Unpack[FunctionOptions]) -> Decorator:
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
            owner = () if job.instance is None else (job.instance,)  # a method's ``self``
            note = JobNote.of(declared.identify((*owner, *job.args), job.kwargs), _intention(job))
            job.meta = {**job.meta, HEADER: note.to_carry()}
            job.description = described or f"{declared.name}({note.label}) {note.key}"
        return job


class JobCall(Call):
    """One execution of an RQ job. Raises `KeyFieldError` for a job that has no key and can be given none."""

    task: Declared
    interrupts = (BaseTimeoutException, ShutDownImminentException)  # the latter an Exception in older RQ

    def __init__(self, task: Declared, job: Job, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        self.task = task
        self.job = job
        self.opaque = task.opaque
        self.local = self.eager = job.worker_name == "sync"  # Queue(is_async=False)
        with _final(task, job):
            self.carried = JobNote.from_carried(job.meta, _intention(job)) or JobNote.of(
                task.identify(args, kwargs), _intention(job)
            )
        self.waits, self.deferrals = self.carried.waits, self.carried.deferrals
        own = replace(self.carried, job_id=_execution(job))
        self.claimant = own.claimant(email_type_of(task), str(job.worker_name or ""), args, kwargs)

    def retries_itself(self, error: Exception) -> bool:
        """Tell whether the job was enqueued with a `Retry`, or no scheduler would bring it back."""
        return self.job.retries_left is not None or not self._has_scheduler()

    def ending(self, error: Exception) -> Ending:
        """A returned `Retry` runs again; so does an error, as long as the job has retries left."""
        if self.local:
            return Ending(AfterBody.GIVES_UP, error)
        if isinstance(error, _RetryReturned):
            retry = self.retry(error.retry)
            is_last = (self.job.number_of_retries or 0) >= retry.max
            return Ending(AfterBody.GIVES_UP if is_last else AfterBody.RUNS_AGAIN, error, retry.intervals[0])
        if self.job.should_retry and not isinstance(error, _never_retried(self.task)):
            return Ending(AfterBody.RUNS_AGAIN, error, self.job.get_retry_interval())
        return Ending(AfterBody.GIVES_UP, error)

    def note(self, outcome: Mapping[str, object]) -> None:
        """Keep ``outcome`` in the job's ``meta``, where dashboards show it. One round trip."""
        first = str(outcome["first_task_id"]).partition("@")[0]
        self.carried = self.carried.with_more(outcome=outcome["outcome"], first_job_id=first)
        self._save()

    def retry(self, returned: Retry) -> Retry:
        """Return a body's ``returned`` as RQ has to count it: what has been waited is not of its retries."""
        back = self.waits + self.deferrals
        done = max((self.job.number_of_retries or 0) - back, 0)
        counted = copy(returned)
        counted.max = returned.max + back
        counted.intervals = [Retry.get_interval(done, returned.intervals)]
        return counted

    def again(self, back: Snooze) -> Retry:
        """Return what makes RQ run the job again after a while, whatever retries it has left."""
        self.carried = self.carried.counted(back.counts)
        try:
            self._save()
        except RedisError:
            logger.warning("%s: how often job %s came back is not noted", self.task.name, self.job.id)
        wait = back.wait
        if not self._has_scheduler():
            logger.info("no scheduler works on queue %r, so the worker waits by itself", self.job.origin)
            with suppress(BaseTimeoutException):  # a job_timeout: then it has waited long enough
                time.sleep(min(wait, _NAP))
            wait = 0
        return Retry(max=(self.job.number_of_retries or 0) + 1, interval=math.ceil(wait))

    def _has_scheduler(self) -> bool:
        try:
            return bool(self.job.connection.exists(RQScheduler.get_locking_key(self.job.origin)))
        except RedisError:
            return False  # how the body ended has to be recorded all the same

    def _save(self) -> None:
        self.job.meta[HEADER] = self.carried.to_carry()
        self.job.save_meta()  # type: ignore[no-untyped-call]


class _RetryReturned(Exception):
    """Raised in the place of a `Retry` that a body has returned: a way to run again, not a result."""

    def __init__(self, retry: Retry) -> None:
        super().__init__("the body returned a Retry")
        self.retry = retry


def perform_job(call: JobCall, body: Body) -> object:
    """Do what ``call`` asks for, and return what RQ is to be given: a result, or a `Retry`."""
    try:
        with _final(call.task, call.job):
            return claim_and_run(call, _raising(body))
    except _RetryReturned as returned:
        return call.retry(returned.retry)
    except Snooze as back:
        return call.again(back)


def _perform(declared: Declared, args: Sequence[object], kwargs: Mapping[str, object], body: Body) -> object:
    job = get_current_job()
    if job is None or not _runs(job, declared):
        try:
            return claim_and_run(DirectCall(declared, args, kwargs), _raising(body))
        except _RetryReturned as returned:
            return returned.retry
    call = JobCall(declared, job, args, kwargs)
    if call.local:
        return perform_job(call, body)
    close_old_connections()  # as Django does around a request; a worker lives long
    try:
        return perform_job(call, body)
    finally:
        close_old_connections()


def _raising(body: Body) -> Body:
    def run() -> object:
        result = body()
        if isinstance(result, Retry):
            raise _RetryReturned(result)
        return result

    return run


@contextmanager
def _final(task: Declared, job: Job) -> Iterator[None]:
    """Keep RQ from trying again what only an operator or other code can change."""
    try:
        yield
    except _never_retried(task):
        job.retries_left = 0
        raise


def _never_retried(task: Declared) -> tuple[type[Exception], ...]:
    return (*task.dont_autoretry_for, KeyFieldError)


def _runs(job: Job, declared: Declared) -> bool:
    """Tell whether ``job`` is this function's, and not one whose body calls the function."""
    found = _declared(job)
    return found is not None and found.name == declared.name and not is_inside(_execution(job))


def _declared(job: Job) -> Declared | None:
    try:
        function: object = job.func
    except Exception:
        return None  # named by a path that only the worker can import, which finds the key then
    found = getattr(function, "declared", None)
    return found if isinstance(found, Declared) else None


def _intention(job: Job) -> str:
    """Return what tells this job from an earlier one under the same id.

    RQ lets a job id be used again, its unique jobs need that, and what the earlier one left in ``meta`` stays.
    """
    return f"{job.id}@{job.created_at:%Y-%m-%dT%H:%M:%S.%f}"


def _execution(job: Job) -> str:
    """Return the id that the ledger knows. Each repetition of a repeated job is an intention of its own."""
    return _intention(job) + ("" if job.repeats_left is None else f"-{job.repeats_left}")
