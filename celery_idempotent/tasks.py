"""Celery's life cycle, translated to the ledger. Decisions are made in `core`, runs are driven in `run`.

The outcome is recorded inside ``__call__``, as soon as the body has returned or raised: Celery calls
``after_return`` for neither IGNORED, RETRY nor REJECTED, calls it only after links and chains have been
published, logs what it raises, and calls it in the parent process for hard time limits, where nothing may be
released (`celery/app/trace.py`, `celery/worker/request.py`). So no Celery hook of this class, other than
``before_start``, does anything, and subclasses may override them without calling ``super()``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NoReturn

from celery import uuid
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from .core.errors import (
    ClaimLost,
    DeliveryInDoubt,
    IdempotencyError,
    InProgress,
    LedgerUnavailable,
    PayloadMismatch,
)
from .core.outcomes import Acquired, Asker, Busy, Duplicate, Held, Mismatch, Outcome
from .core.status import DeliveryStatus, Status
from .mailers import backend_in_place
from .options import policy
from .publishing import HEADER, KeyedTask, argsrepr, as_note, kwargsrepr
from .reporting import Report
from .results import dump, load
from .run import Run, current_run
from .wiring import get_ledger, get_mirror

logger = logging.getLogger("celery_idempotent")

_STATE = "_celery_idempotent_state"
_LONGEST_BACKOFF = 300.0
_LONGEST_WAIT = 900.0
"""Half of the 30 minutes after which RabbitMQ closes the channel of a consumer that does not acknowledge."""


class IdempotentTask(KeyedTask):
    """A task that runs once per key, whatever its body does: SMS, webhooks, payments.

    The ledger cannot see into such a body. Claim and write-ahead are one write; an exception means "nothing
    happened" unless it is one of ``in_doubt_for`` or a soft time limit; a crash is in doubt.
    """

    abstract = True

    # -- the claim ---------------------------------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Claim the key (Celery calls this right before the body). Ends the run where the body must not run."""
        setattr(self.request, _STATE, self._claim(task_id, args, kwargs))

    def _claim(self, task_id: str, args: Any, kwargs: Any) -> Run | Duplicate:
        asker = self._asker(task_id, args, kwargs)
        rules = policy(self, self._is_opaque())
        ledger = get_ledger(self.app, eager=bool(self.request.is_eager))
        try:
            outcome = ledger.claim(asker, rules)
        except LedgerUnavailable as error:
            self._come_back(self._backoff(), error)
        match outcome:
            case Acquired(entry, mismatch):
                self._warn_of_mismatch(entry, mismatch)
                run = Run(ledger, asker, rules, entry, get_mirror(self.app))
                Report(self, run.asker, entry).claimed()
                return run
            case Duplicate(entry, mismatch, settled):
                self._warn_of_mismatch(entry, mismatch)
                if mirror := get_mirror(self.app):
                    # This run's predecessor may have died before it got there.
                    mirror.keep(entry) if settled or entry.owner == task_id else mirror.count(entry)
                Report(self, asker, entry).duplicate()
                return outcome
            case _:
                return self._refused(outcome, asker)

    def _refused(self, outcome: Outcome, asker: Asker) -> Duplicate:
        match outcome:
            case Busy(entry, retry_after):
                busy = InProgress(f"{asker.email_type}: {entry.owner} works on {entry.key}", retry_after)
                if self.on_conflict == "raise":
                    raise busy
                if self.on_conflict == "skip":
                    Report(self, asker, entry).duplicate()
                    return Duplicate(entry)
                # Whoever works on it is usually done long before the lease ends.
                self._come_back(min(retry_after, self._backoff()), busy)
            case Held(entry, found):
                error = DeliveryInDoubt(
                    f"{asker.email_type}: the outcome of an earlier hand-over of {entry.key} is unknown; "
                    "an operator or a verifier has to decide"
                )
                report = Report(self, asker, entry)
                report.ended(error) if found else report.held()
                if mirror := get_mirror(self.app):
                    mirror.keep(entry)
                raise error
            case Mismatch(entry):
                raise PayloadMismatch(
                    f"{asker.email_type}: {entry.key} ({asker.label}) was asked for before with other content, "
                    f"by task {entry.owner}. If the content may differ, set fingerprint_fields or on_mismatch"
                )
        raise AssertionError(outcome)

    def _asker(self, task_id: str, args: Any, kwargs: Any) -> Asker:
        note = self._own_note(self.request.headers, task_id)
        if note is None:
            note = as_note(self._identify(args, kwargs), task_id)
            # Published around this class: results and events to come still get the key fields alone.
            self.request.update(argsrepr=argsrepr(note), kwargsrepr=kwargsrepr(note))
        return self._asker_of(note)

    # -- the body ----------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body under the claim, or return the recorded result of a duplicate.

        A direct call claims too, under a task id of its own.
        """
        request = self.request
        state = request.__dict__.pop(_STATE, None)
        if state is None:
            around = current_run()
            in_body = around is not None and around.asker.task_id == request.id
            if request.called_directly or in_body:
                return self._call_directly(args, kwargs)
            state = self._claim(request.id, args, kwargs)  # a subclass has its own before_start
        return self._conduct(state, lambda: self.run(*args, **kwargs))

    def _call_directly(self, args: Any, kwargs: Any) -> Any:
        fresh = {"headers": None, "retries": 0, "is_eager": False, "called_directly": True}
        self.push_request(args=args, kwargs=kwargs, id=f"direct-{uuid()}", **fresh)
        try:
            state = self._claim(self.request.id, args, kwargs)
            return self._conduct(state, lambda: self.run(*args, **kwargs))
        finally:
            self.pop_request()

    def _conduct(self, state: Run | Duplicate, body: Callable[[], Any]) -> Any:
        if isinstance(state, Duplicate):
            return load(state.entry.result)
        run = state
        try:
            with run.active():
                result = body()
        except (Retry, Ignore, Reject) as signal:
            if run.stopped_by is not None and isinstance(signal, Ignore):
                return self._failed(run, run.stopped_by)  # swallowed, as below
            self._let_go(run, signal)
            raise
        except Exception as error:
            return self._failed(run, error)
        except BaseException as error:
            # The process is being taken down: what was under way is known or stays to its deadline.
            logger.warning("%s: interrupted by %r", run.asker.email_type, error)
            raise
        return self._succeeded(run, result)

    def _succeeded(self, run: Run, result: Any) -> Any:
        if run.stopped_by is not None:
            return self._failed(run, run.stopped_by)  # the body swallowed it: nobody would send that mail
        try:
            run.complete(dump(result, run.asker.email_type))
        except (ClaimLost, LedgerUnavailable) as error:
            return self._stop(run, error)
        if not run.policy.opaque:
            self._warn_of_unsent(run)
        Report(self, run.asker, run.entry).sent()
        return result

    def _warn_of_unsent(self, run: Run) -> None:
        if not run.entry.deliveries:
            logger.warning("%s: the body ended without handing any mail over", run.asker.email_type)
        elif any(d.status is not DeliveryStatus.ACCEPTED for d in run.entry.deliveries):
            logger.warning("%s: the body ended with recipients that were not served", run.asker.email_type)

    def _let_go(self, run: Run, signal: Exception) -> None:
        retry_in = _seconds_until(signal.when) if isinstance(signal, Retry) else None
        cause = getattr(signal, "exc", None) or signal
        try:
            if run.policy.opaque and isinstance(cause, self._doubtful()):
                run.doubt(type(cause).__name__)
            elif isinstance(signal, Ignore) and (run.policy.opaque or run.entry.deliveries):
                run.complete(None)  # replace(), or a body that wants no result: it has done its work
                Report(self, run.asker, run.entry).sent()
                return
            else:
                run.release(type(cause).__name__, retry_in)
        except ClaimLost as lost:
            Report(self, run.asker, run.entry).lost(lost.owner)
        except IdempotencyError:
            logger.exception("%s: the claim could not be released; its lease will", run.asker.email_type)
        else:
            Report(self, run.asker, run.entry).ended(cause)

    def _failed(self, run: Run, error: Exception) -> Any:
        stop = error if isinstance(error, ClaimLost | LedgerUnavailable) else run.stopped_by
        if isinstance(stop, ClaimLost | LedgerUnavailable):
            return self._stop(run, stop)
        try:
            if run.policy.opaque and isinstance(error, self._doubtful()):
                run.doubt(type(error).__name__)
            else:
                run.fail(type(error).__name__)
        except ClaimLost as lost:
            return self._stop(run, lost)
        except IdempotencyError:
            logger.exception("%s: the failure could not be recorded", run.asker.email_type)
        else:
            Report(self, run.asker, run.entry).ended(error)
        raise error

    def _stop(self, run: Run, error: IdempotencyError) -> Any:
        """End a run that may not go on: nothing of its outcome is its own to report.

        If its own redelivery was first, this returns that one's result, or leaves the task to it.
        """
        if not isinstance(error, ClaimLost):
            self._come_back(self._backoff(), error)
        Report(self, run.asker, run.entry).lost(error.owner)
        if error.owner != run.asker.task_id or self._is_local():
            self._come_back(run.policy.lease, error)
        try:
            stored = run.ledger.store.get(run.asker.key)
        except LedgerUnavailable as unavailable:
            self._come_back(self._backoff(), unavailable)
        if stored is not None and stored.entry.status is Status.SENT:
            return load(stored.entry.result)
        raise Ignore("a redelivery of this very task has taken over") from error

    def _doubtful(self) -> tuple[type[Exception], ...]:
        return (SoftTimeLimitExceeded, *self.in_doubt_for)

    # -- coming back later -------------------------------------------------------------------------------

    def _is_local(self) -> bool:
        return bool(self.request.called_directly or self.request.is_eager)

    def _backoff(self) -> float:
        note = self._own_note(self.request.headers, self.request.id) or {}
        return float(min(2.0 ** min(note.get("waits", 0), 16), _LONGEST_BACKOFF))

    def _come_back(self, wait: float, error: Exception) -> NoReturn:
        """Publish this task again, under its own id and without spending its retries, and end this run.

        Never for longer than the broker keeps a message unacknowledged, or it would deliver it twice, and
        again twice. Raises ``error`` itself where there is no worker (direct calls, eager mode).
        """
        if self._is_local():
            raise error
        request = self.request
        options = self.app.conf.broker_transport_options or {}
        longest = min(float(options.get("visibility_timeout") or 3600) / 2, _LONGEST_WAIT)
        wait = min(wait * random.uniform(1.0, 1.1) + 0.05, longest)
        logger.info("%s[%s] comes back in %.1f s: %s", self.name, request.id, wait, error)
        note = self._own_note(request.headers, request.id)
        note = note or as_note(self._identify(request.args, request.kwargs), request.id)
        again = self.signature_from_request(
            request,
            request.args,
            request.kwargs,
            countdown=wait,
            retries=request.retries,
            headers={**(request.headers or {}), HEADER: {**note, "waits": note.get("waits", 0) + 1}},
        )
        try:
            again.apply_async()
        except Exception as failure:
            raise Reject(failure, requeue=True) from error
        raise Retry(exc=error, when=wait, sig=again)


class IdempotentEmailTask(IdempotentTask):
    """A task whose body sends mail through Django, written into the ledger hand-over by hand-over.

    Needs ``EMAIL_BACKEND = "celery_idempotent.mail.EmailBackend"``; without it the body is opaque.
    """

    abstract = True

    def _is_opaque(self) -> bool:
        return not backend_in_place()


def _seconds_until(when: float | datetime | None) -> float:
    if isinstance(when, datetime):
        now = datetime.now(when.tzinfo or timezone.utc)
        return float((when.replace(tzinfo=when.tzinfo or timezone.utc) - now).total_seconds())
    return float(when or 0.0)
