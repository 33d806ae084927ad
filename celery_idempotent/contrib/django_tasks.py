"""Django's task framework, translated to the ledger: ``django.tasks`` of Django 6, and its backport.

Stands below ``@task``::

    @task
    @idempotent_email(key_fields=("order_id",))
    def order_confirmation(order_id): ...

The framework tells a function nothing about the job that it runs in, so this listens to ``task_started`` and
``task_finished``. It has no retries either: a call that has to come back waits in its worker, for as long as a
lease or a hand-over may take, and is then enqueued anew where the backend can defer. On the backend that runs
in RQ, a job comes back as RQ's jobs do.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections
from django.utils import timezone

from ..conduct import ComeBack
from ..core.errors import InProgress
from ..functions import Declared, DirectCall, declare, made
from ..identity import Identity
from ..run import current_run

logger = logging.getLogger("celery_idempotent")

_started: ContextVar[tuple[Any, ...]] = ContextVar("celery_idempotent_tasks", default=())
"""Results of the tasks under way here, innermost last: the immediate backend runs one inside another."""


def idempotent_email(**options: Any) -> Callable[..., Any]:
    """Decorate a function that sends mail through Django: once per key. Options as for `IdempotentEmailTask`.

    Raises `ImproperlyConfigured` for options that cannot be used.
    """
    return declare(True, _perform, options, TaskFunction)


def idempotent(**options: Any) -> Callable[..., Any]:
    """Decorate a function whose work the ledger cannot see. Options as for `IdempotentTask`."""
    return declare(False, _perform, options, TaskFunction)


class TaskFunction(Declared):
    """A function below ``@task``."""

    @property
    def filled_in(self) -> int:  # type: ignore[override]
        """1 if the task takes Django's context as its first argument."""
        module = sys.modules.get(self.run.__module__)
        return int(getattr(getattr(module, self.run.__qualname__, None), "takes_context", False))

    def identify(self, args: Any, kwargs: Any) -> Identity:
        """Return what a call is to the ledger; ``args`` with the context, if the task takes one."""
        return super().identify(args[self.filled_in :], kwargs)

    def key_for(self, *args: Any, **kwargs: Any) -> str:
        """Return the idempotency key of a call with these arguments, without a context."""
        return super().identify(args, kwargs).key


class TaskCall(DirectCall):
    """One run of a Django task: there is a worker to wait in, unless the backend is the immediate one."""

    def __init__(self, task: Declared, result: Any, args: Any, kwargs: Any) -> None:
        immediate = type(result.task.get_backend()).__name__ == "ImmediateBackend"
        super().__init__(task, args, kwargs, result.id, eager=immediate)
        self.local = immediate
        self.result = result
        self.again = (args[task.filled_in :], kwargs)
        self.asker = replace(self.asker, worker=str((result.worker_ids or [""])[-1]))


def _perform(declared: Declared, args: Any, kwargs: Any, body: Callable[[], Any]) -> Any:
    result = _current(declared)
    if result is None:
        return made(DirectCall(declared, args, kwargs), body)
    job = _rq_job(result)
    if job is not None:
        from .rq import JobCall, perform_job

        return perform_job(JobCall(declared, job, args, kwargs), body)
    call = TaskCall(declared, result, args, kwargs)
    return made(call, body) if call.local else _in_worker(call, body)


def _in_worker(call: TaskCall, body: Callable[[], Any]) -> Any:
    end = time.monotonic() + call.task.lease + call.task.send_timeout
    while True:
        close_old_connections()
        try:
            return made(call, body)
        except ComeBack as back:
            if time.monotonic() + back.wait > end:
                _hand_on(call, back)
            time.sleep(back.wait)
            call.waits += 1


def _hand_on(call: TaskCall, back: ComeBack) -> NoReturn:
    """Enqueue the task anew for later, and fail this one, saying so."""
    task = call.result.task
    if not task.get_backend().supports_defer:
        raise back.cause
    args, kwargs = call.again
    again = task.using(run_after=timezone.now() + timedelta(seconds=back.wait)).enqueue(*args, **kwargs)
    logger.warning("%s: task %s goes on as %s: %s", call.task.name, call.result.id, again.id, back.cause)
    raise InProgress(f"{back.cause}; this goes on as task {again.id}", back.wait) from back.cause


def _current(declared: Declared) -> Any:
    """Return the result of the task that is calling this function, or None if it is another caller."""
    running = _started.get()
    if not running:
        return None
    found = getattr(running[-1].task.func, "declared", None)
    around = current_run()
    in_body = around is not None and around.asker.task_id == running[-1].id
    return running[-1] if found is not None and found.name == declared.name and not in_body else None


def _rq_job(result: Any) -> Any:
    rq = sys.modules.get("rq")
    job = rq.get_current_job() if rq else None
    return job if job is not None and job.id == result.id else None


# -- what the framework tells ------------------------------------------------------------------------------


def _on_started(task_result: Any, **_: Any) -> None:
    _started.set((*_started.get(), task_result))


def _on_finished(task_result: Any, **_: Any) -> None:
    _started.set(tuple(result for result in _started.get() if result.id != task_result.id))


def _connect() -> None:
    frameworks = [name for name in ("django.tasks", "django_tasks") if find_spec(name)]
    if not frameworks:
        raise ImproperlyConfigured("celery_idempotent.contrib.django_tasks needs Django 6, or django-tasks")
    for name in frameworks:
        signals = import_module(f"{name}.signals")
        signals.task_started.connect(_on_started)
        signals.task_finished.connect(_on_finished)


_connect()
