"""Celery's life cycle, translated to the ledger: `claim` and `run_body` do what the ledger decides.

The outcome is recorded inside ``__call__``, as soon as the body has returned or raised: Celery calls
``after_return`` for neither IGNORED, RETRY nor REJECTED, calls it only after links and chains have been
published, logs what it raises, and calls it in the parent process for hard time limits, where nothing may be
released (`celery/app/trace.py`, `celery/worker/request.py`). So no Celery hook of this class, other than
``before_start``, does anything, and subclasses may override them without calling ``super()``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from copy import copy
from datetime import datetime, timezone
from typing import Any, NoReturn, SupportsFloat

from celery import uuid
from celery.app.autoretry import add_autoretry_behaviour
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from ..email_types.email_type import email_type_of
from ..email_types.job_note import HEADER, JobNote
from ..email_types.options import AUTORETRY, Args, Kwargs
from ..execution.body import run_body
from ..execution.call import LONGEST_WAIT, AfterBody, Call, Ending, Snooze, TakenOver
from ..execution.claim import claim
from ..execution.run import Run, is_inside
from ..ledger.entry import Entry
from ..ledger.outcomes import Duplicate
from ..mail_settings import backend_in_place
from .publishing import KeyedTask

_STATE = "_celery_idempotent_state"
_GIVEN_UP = "_celery_idempotent_given_up"
"""On the request: the error for which the body had no retry left."""


class CeleryCall(Call):
    """A task's current request."""

    task: IdempotentTask

    interrupts = (SoftTimeLimitExceeded,)

    def __init__(self, task: IdempotentTask, task_id: str, args: Args, kwargs: Kwargs) -> None:
        request = task.request
        self.task = task
        self.app = task.app
        self.opaque = task._is_opaque()
        self.eager = bool(request.is_eager)
        self.local = bool(request.called_directly or request.is_eager)
        note = JobNote.from_carried(request.headers, task_id)
        if note is None:
            note = JobNote.of(task._identify(args, kwargs), task_id)
            # Published around this class: results and events to come still get the key fields alone.
            request.update(argsrepr=note.argsrepr(), kwargsrepr=note.kwargsrepr())
        self.carried = note
        self.waits, self.deferrals = note.waits, note.deferrals
        self.claimant = note.claimant(email_type_of(task), str(request.hostname or ""), args, kwargs)

    def retries_itself(self, error: Exception) -> bool:
        """Tell whether the task declares a retry for this, or its body has given up after retries of its own.

        A body may count them itself. So one that has had all of them is taken to have had them for this.
        """
        task, request = self.task, self.task.request
        declared = tuple(getattr(task, "autoretry_for", ()))
        most = getattr(task, "retry_kwargs", {}).get("max_retries", task.max_retries)
        spent = bool(request.retries) and most is not None and request.retries >= most
        return spent or isinstance(error, declared) or request.__dict__.get(_GIVEN_UP) is error

    def raise_in_body(self, error: Exception) -> NoReturn:
        """Raise it where the task's ``autoretry_for`` sees it, which Celery puts around the body."""
        _Raising(self.task, error).run()
        raise error

    def ending(self, error: Exception) -> Ending:
        """Retry, Ignore and Reject are Celery's signals; all else is final: it autoretries by raising Retry."""
        cause = getattr(error, "exc", None) or error
        match error:
            case Retry():
                return Ending(AfterBody.RUNS_AGAIN, cause, _seconds_until(error.when))
            case Reject():
                return Ending(AfterBody.RUNS_AGAIN, cause)
            case Ignore():
                return Ending(AfterBody.IS_DONE, error)
        return Ending(AfterBody.GIVES_UP, error)

    def note(self, outcome: Mapping[str, object]) -> None:
        """Write ``outcome`` where django-celery-results takes it: its own keys are not to be touched."""
        request = self.task.request
        request.update(meta={**(getattr(request, "meta", None) or {}), "celery_idempotent": outcome})

    def event(self, kind: str, entry: Entry) -> None:
        """Send a task event, for Flower and others."""
        if not self.local:
            self.task.send_event(
                kind, retry=False, key=entry.key, first_task_id=entry.owner, name=self.task.name
            )


class _Raising:
    """A body that raises ``error``, in the retries that ``task`` declares: Celery wraps it like its own."""

    def __init__(self, task: IdempotentTask, error: Exception) -> None:
        self.error = error
        self.request, self.retry, self.max_retries = task.request, task.retry, task.max_retries
        names = ("dont_autoretry_for", *AUTORETRY)
        add_autoretry_behaviour(self, **{n: copy(getattr(task, n)) for n in names if hasattr(task, n)})

    def run(self) -> None:
        """Raise it."""
        raise self.error


class IdempotentTask(KeyedTask):
    """A task that runs once per key, whatever its body does: SMS, webhooks, payments.

    The ledger cannot see into such a body. Claim and write-ahead are one write; an exception means "nothing
    happened" unless it is one of ``in_doubt_for`` or a soft time limit; a crash is in doubt.
    """

    abstract = True

    def before_start(self, task_id: str, args: Args, kwargs: Kwargs) -> None:
        """Claim the key (Celery calls this right before the body). Ends the run where the body must not run."""
        setattr(self.request, _STATE, self._claim(task_id, args, kwargs))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body under the claim, or return the recorded result of a duplicate.

        A direct call claims too, under a task id of its own.
        """
        request = self.request
        claimed = request.__dict__.pop(_STATE, None)
        if claimed is None:
            if request.called_directly or is_inside(request.id or ""):
                return self._call_directly(args, kwargs)
            claimed = self._claim(request.id or "", args, kwargs)  # a subclass has its own before_start
        return self._run_body(claimed, args, kwargs)

    def retry(
        self,
        args: Args = None,
        kwargs: Kwargs = None,
        exc: BaseException | None = None,
        *more: Any,
        **options: Any,
    ) -> Any:
        """Retry as Celery does, but not before the mail server takes it: greylisting says for how long.

        By ``exc`` as by the error that the body is handling, which may be retried without being named.
        """
        asked = max(_wait_of(exc), _wait_of(sys.exc_info()[1]))
        if asked and not more and options.get("eta") is None:
            given = options.get("countdown")
            options["countdown"] = max(asked, self.default_retry_delay if given is None else given)
        try:
            return super().retry(args, kwargs, exc, *more, **options)  # type: ignore[arg-type]
        except (Retry, Reject):
            raise
        except Exception as error:
            setattr(self.request, _GIVEN_UP, error)
            raise

    def _call_directly(self, args: Args, kwargs: Kwargs) -> Any:
        fresh = {"headers": None, "retries": 0, "is_eager": False, "called_directly": True}
        self.push_request(args=args, kwargs=kwargs, id=f"direct-{uuid()}", **fresh)
        try:
            return self._run_body(self._claim(self.request.id or "", args, kwargs), args, kwargs)
        finally:
            self.pop_request()

    def _claim(self, task_id: str, args: Args, kwargs: Kwargs) -> tuple[CeleryCall, Run | Duplicate]:
        call = CeleryCall(self, task_id, args, kwargs)
        return call, self._translated(call, lambda: claim(call))

    def _run_body(self, claimed: tuple[CeleryCall, Run | Duplicate], args: Args, kwargs: Kwargs) -> Any:
        call, state = claimed
        return self._translated(
            call, lambda: run_body(call, state, lambda: self.run(*(args or ()), **(kwargs or {})))
        )

    def _translated(self, call: CeleryCall, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except TakenOver as taken:
            raise Ignore("a redelivery of this very task has taken over") from taken.cause
        except Snooze as back:
            self._snooze(call, back)

    def _snooze(self, call: CeleryCall, back: Snooze) -> NoReturn:
        """Publish this task again, under its own id and without spending its retries, and end this run.

        Never for longer than the broker keeps a message unacknowledged, or it would deliver it twice, and
        again twice.
        """
        request = self.request
        options = self.app.conf.broker_transport_options or {}
        wait = min(back.wait, float(options.get("visibility_timeout") or 3600) / 2, LONGEST_WAIT)
        again = self.signature_from_request(
            request,
            request.args,  # type: ignore[arg-type]
            request.kwargs,  # type: ignore[arg-type]
            countdown=wait,
            retries=request.retries,
            headers={**(request.headers or {}), HEADER: call.carried.counted(back.counts).to_carry()},
        )
        try:
            again.apply_async()
        except Exception as failure:
            raise Reject(failure, requeue=True) from back.cause
        raise Retry(exc=back.cause, when=wait, sig=again) from back.cause  # type: ignore[arg-type]


class IdempotentEmailTask(IdempotentTask):
    """A task whose body sends mail through Django, written into the ledger hand-over by hand-over.

    Needs ``EMAIL_BACKEND = "celery_idempotent.mail.EmailBackend"``; without it the body is opaque.
    """

    abstract = True

    def _is_opaque(self) -> bool:
        return not backend_in_place()


def _wait_of(error: BaseException | None) -> float:
    """Return how long the mail server wants to be left alone. Others may mean something else by that name."""
    asked = getattr(error, "retry_after", None)
    return float(asked) if isinstance(asked, int | float) else 0.0


def _seconds_until(when: SupportsFloat | datetime | None) -> float:
    if isinstance(when, datetime):
        now = datetime.now(when.tzinfo or timezone.utc)
        return float((when.replace(tzinfo=when.tzinfo or timezone.utc) - now).total_seconds())
    return float(when or 0.0)
