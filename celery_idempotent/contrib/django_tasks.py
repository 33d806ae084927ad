"""Django's task framework, translated to the ledger: ``django.tasks`` of Django 6, and its backport.

Stands below ``@task``::

    @task
    @idempotent_email(key_fields=("order_id",))
    def order_confirmation(order_id): ...

The framework tells a function nothing about the job that it runs in, so this listens to its signals. It has no
retries either: a call that has to come back waits in its worker, for as long as a lease and a hand-over may
take, and is then enqueued anew. On the backend that runs in RQ, a job comes back as RQ's jobs do.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections, connections
from django.utils import timezone

from ..email_types.call_keys import Identity
from ..email_types.options import FunctionOptions
from ..exceptions import InProgress, KeyFieldError, UnsafeTransaction
from ..execution.call import Snooze
from ..execution.functions import Body, Declared, Decorator, DirectCall, claim_and_run, declare

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

__all__ = ["idempotent", "idempotent_email"]

logger = logging.getLogger("celery_idempotent")

_Result = Any
"""A `TaskResult` of Django's framework, or of its backport: two classes without a common one."""

_started: ContextVar[_Result] = ContextVar("celery_idempotent_started", default=None)
"""The result of a task that has been started here and whose function has not been called yet."""


def idempotent_email(**options: Unpack[FunctionOptions]) -> Decorator:
    """Decorate a function that sends mail through Django: once per key. Options as for `IdempotentEmailTask`.

    Raises `ImproperlyConfigured` for options that cannot be used.
    """
    return declare(True, _perform, options, TaskFunction)


def idempotent(**options: Unpack[FunctionOptions]) -> Decorator:
    """Decorate a function whose work the ledger cannot see. Options as for `IdempotentTask`."""
    return declare(False, _perform, options, TaskFunction)


class TaskFunction(Declared):
    """A function below ``@task``."""

    def __init__(
        self, function: Callable[..., object], sends_mail: bool, options: Mapping[str, object]
    ) -> None:
        if not hasattr(function, "__qualname__"):
            raise ImproperlyConfigured(
                f"{function!r} is not a function: write @task above the ledger's decorator"
            )
        super().__init__(function, sends_mail, options)

    @property
    def filled_in(self) -> int:  # type: ignore[override]
        """1 if the task takes Django's context as its first argument."""
        try:
            task = attrgetter(self.run.__qualname__)(sys.modules[self.run.__module__])
        except (AttributeError, KeyError):
            return 0
        return int(getattr(task, "takes_context", False))

    def identify(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Identity:
        """Return what a call is to the ledger; ``args`` with the context, if the task takes one."""
        return super().identify(args[self.filled_in :], kwargs)

    def key_for(self, *args: object, **kwargs: object) -> str:
        """Return the idempotency key of a call with these arguments, without a context."""
        return super().identify(args, kwargs).key


class TaskCall(DirectCall):
    """One run of a Django task: there is a worker to wait in, unless the backend is the immediate one."""

    def __init__(
        self, task: Declared, result: _Result, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> None:
        immediate = any(kind.__name__ == "ImmediateBackend" for kind in type(result.task.get_backend()).__mro__)
        super().__init__(task, args, kwargs, result.id, eager=immediate)
        self.local = immediate
        self.result = result
        self.claimant = replace(self.claimant, worker=str((result.worker_ids or [""])[-1]))

    def backoff(self) -> float:
        """Return less than where a job can come back: waiting keeps a worker from its other tasks."""
        return super().backoff() / 8


def _perform(declared: Declared, args: Sequence[object], kwargs: Mapping[str, object], body: Body) -> object:
    result = _started.get()
    if result is None or _declared(result) is not declared:
        return claim_and_run(DirectCall(declared, args, kwargs), body)
    _started.set(None)  # what the body calls is not this task's own call
    try:
        return _perform_task(declared, result, args, kwargs, body)
    except Exception:
        _started.set(result)  # a decorator between @task and this one may call again
        raise


def _perform_task(
    declared: Declared, result: _Result, args: Sequence[object], kwargs: Mapping[str, object], body: Body
) -> object:
    job = _rq_job(result)
    if job is not None:
        return _in_rq(declared, job, args, kwargs, body)
    call = TaskCall(declared, result, args, kwargs)
    return claim_and_run(call, body) if call.local else _in_worker(call, body)


# -- in a worker that does not call again --------------------------------------------------------------------


def _in_worker(call: TaskCall, body: Body) -> object:
    end = time.monotonic() + call.task.lease + call.task.send_timeout
    while True:
        close_old_connections()  # as Django does around a request; one may have died with its server
        try:
            return claim_and_run(call, body)
        except Snooze as back:
            if time.monotonic() + back.wait > end:
                _hand_on(call, back)
            time.sleep(back.wait)
            call.waits += 1


def _hand_on(call: TaskCall, back: Snooze) -> None:
    """Enqueue the task anew for later, and fail this one, saying so. Returns if the queue does not take it."""
    task = call.result.task
    if not task.get_backend().supports_defer:
        raise back.cause
    later = task.using(run_after=timezone.now() + timedelta(seconds=back.wait))
    try:
        if any(connection.in_atomic_block for connection in connections.all(initialized_only=True)):
            raise UnsafeTransaction("a transaction is open around it, which would take the new task with it")
        again = later.enqueue(*call.result.args, **call.result.kwargs)
    except Exception as error:
        logger.warning("%s[%s] waits: it cannot be enqueued anew: %s", call.task.name, call.result.id, error)
        return
    logger.warning("%s[%s] goes on as %s: %s", call.task.name, call.result.id, again.id, back.cause)
    raise InProgress(f"{back.cause}; this goes on as task {again.id}", back.wait) from back.cause


# -- in RQ ---------------------------------------------------------------------------------------------------


def _rq_job(result: _Result) -> Any:
    """Return the RQ job that runs the task, or None on another backend."""
    rq = sys.modules.get("rq")
    job = rq.get_current_job() if rq else None
    return job if job is not None and job.id == result.id else None


def _in_rq(
    declared: Declared, job: Any, args: Sequence[object], kwargs: Mapping[str, object], body: Body
) -> object:
    from .rq import JobCall, perform_job

    close_old_connections()
    call = JobCall(declared, job, args, kwargs)
    if call.waits:
        _forget_waits(job)
    return perform_job(call, body)


def _forget_waits(job: Any) -> None:
    """Delete the results that only said to come back: django-tasks-rq takes a job's oldest for the task's."""
    from rq.results import Result

    waits = [result.id for result in job.results() if result.type is Result.Type.RETRIED]
    if waits:
        job.connection.xdel(Result.get_key(job.id), *waits)  # type: ignore[no-untyped-call]


# -- what the framework tells --------------------------------------------------------------------------------


def _declared(result: _Result) -> TaskFunction | None:
    found = getattr(result.task.func, "declared", None)
    return found if isinstance(found, TaskFunction) else None


def _on_enqueued(task_result: _Result, **_: object) -> None:
    """Refuse a call without its key fields to whoever makes it. Its task is enqueued already and will fail."""
    declared = _declared(task_result)
    if declared is None:
        return
    try:
        declared.key_for(*task_result.args, **task_result.kwargs)
    except KeyFieldError:
        raise
    except Exception:
        logger.warning("%s: no key could be computed yet; the worker will", declared.name, exc_info=True)


def _on_started(task_result: _Result, **_: object) -> None:
    _started.set(task_result)


def _on_finished(task_result: _Result, **_: object) -> None:
    started = _started.get()
    if started is not None and started.id == task_result.id:
        _started.set(None)


def _connect() -> None:
    frameworks = [name for name in ("django.tasks", "django_tasks") if find_spec(name)]
    if not frameworks:
        raise ImproperlyConfigured("celery_idempotent.contrib.django_tasks needs Django 6, or django-tasks")
    for name in frameworks:
        signals = import_module(f"{name}.signals")
        signals.task_enqueued.connect(_on_enqueued)
        signals.task_started.connect(_on_started)
        signals.task_finished.connect(_on_finished)


_connect()
