"""Run the body of a claimed call and record its end, the same way for every queue."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..exceptions import (
    ClaimLost,
    DeliveryInDoubt,
    DeliveryUnconfirmed,
    IdempotencyError,
    LedgerUnavailable,
    RecipientsDeferred,
)
from ..ledger.doubts import is_left_to_rules
from ..ledger.outcomes import Duplicate
from ..ledger.status import DeliveryStatus, Status
from .call import LONGEST_WAIT, AfterBody, Call, Ending, TakenOver
from .results import dump, load
from .run import Run

logger = logging.getLogger("celery_idempotent")

FIRST_DEFERRAL = 60.0
"""Seconds until recipients refused for now are offered the mail again; twice as many after each time."""


def run_body(call: Call, state: Run | Duplicate, body: Callable[[], object]) -> object:
    """Run ``body`` under the claim and record its outcome, or return the recorded result of a duplicate.

    Raises what the body raises, or `Snooze`.
    """
    if isinstance(state, Duplicate):
        return load(state.entry.result)
    run = state
    try:
        with run.active():
            result = body()
            _raise_swallowed(call, run)
    except Exception as error:
        return _raised(call, run, error)
    except BaseException as error:
        # The process is being taken down: what was under way is known or stays to its deadline.
        logger.warning("%s: interrupted by %r", run.claimant.email_type, error)
        raise
    return _succeeded(call, run, result)


# -- which end it is -------------------------------------------------------------------------------------


def _raise_swallowed(call: Call, run: Run) -> None:
    """Raise what a body that ended well should not have swallowed, as if that had been its end."""
    error = (
        run.unserved.blocking_error(run.entry.deliveries) if run.stopped_by is None else _doubt_to_settle(run)
    )
    if error is not None:
        logger.warning("%s: the body swallowed %r, which counts", run.claimant.email_type, type(error).__name__)
        call.raise_in_body(error)


def _raised(call: Call, run: Run, error: Exception) -> object:
    if isinstance(run.stopped_by, DeliveryUnconfirmed):
        return _unconfirmed(call, run, run.stopped_by)
    ending = call.ending(error)
    swallowed = run.stopped_by or run.unserved.blocking_error(run.entry.deliveries)
    if ending.then is AfterBody.IS_DONE and swallowed is not None:
        return _failed(call, run, swallowed)
    if ending.then is AfterBody.GIVES_UP:
        if not _is_offered_again(call, run, error):
            return _failed(call, run, error)
        wait = deferral(call.deferrals, error)
        _let_go(call, run, Ending(AfterBody.RUNS_AGAIN, error, wait))
        call.snooze(wait, error, "deferrals")
    _let_go(call, run, ending)
    raise error


def _is_offered_again(call: Call, run: Run, error: Exception) -> bool:
    """Tell whether what may pass is offered again without the task having said anything about it."""
    if call.local or call.deferrals >= call.task.deferred_retries:
        return False
    if run.stopped_by is None:
        passes = isinstance(error, RecipientsDeferred) or run.unserved.passes(error)
    else:
        passes = error is _doubt_to_settle(run)
    return passes and not call.retries_itself(error)


def _doubt_to_settle(run: Run) -> Exception | None:
    """Return what stopped a run by a doubt that the task's own rules may settle, at the next claim; or None."""
    settles = bool(run.entry.doubtful_deliveries()) and is_left_to_rules(run.entry, run.policy)
    return run.stopped_by if settles and not isinstance(run.stopped_by, IdempotencyError) else None


def deferral(times: int, error: Exception) -> float:
    """Return the seconds until recipients are offered the mail again that were refused so many ``times``."""
    asked = getattr(error, "retry_after", None) or 0.0
    return float(min(max(FIRST_DEFERRAL * 2.0 ** min(times, 16), asked), LONGEST_WAIT))


def _succeeded(call: Call, run: Run, result: object) -> object:
    if isinstance(run.stopped_by, DeliveryUnconfirmed):
        return _unconfirmed(call, run, run.stopped_by)
    if run.stopped_by is not None:
        return _failed(call, run, run.stopped_by)  # the body swallowed it: nobody would send that mail
    if run.entry.doubtful_deliveries():
        return _failed(call, run, _not_offered_again(run))
    try:
        run.complete(dump(result, run.claimant.email_type))
    except (ClaimLost, LedgerUnavailable) as error:
        return _stop(call, run, error)
    if not run.policy.opaque:
        _warn_of_unsent(run)
    call.report(run.entry).sent()
    return result


def _warn_of_unsent(run: Run) -> None:
    found = run.entry.deliveries
    if not found:
        logger.warning("%s: the body ended without handing any mail over", run.claimant.email_type)
    elif run.unserved.unserved(found) or any(d.status is not DeliveryStatus.ACCEPTED for d in found):
        logger.warning("%s: the body ended with recipients that were not served", run.claimant.email_type)


# -- recording it ----------------------------------------------------------------------------------------


def _let_go(call: Call, run: Run, ending: Ending) -> None:
    """Free the claim, for the next run or as done; the queue goes on, even if that cannot be recorded."""
    cause = ending.cause
    try:
        if _leaves_doubt(call, run, cause):
            run.doubt(type(cause).__name__)
        elif ending.then is AfterBody.IS_DONE and (run.policy.opaque or run.entry.deliveries):
            run.complete(None)  # replaced, or a body that wants no result: it has done its work
            report = call.report(run.entry)
            report.ended(_not_offered_again(run)) if run.entry.doubtful_deliveries() else report.sent()
            return
        else:
            run.release(type(cause).__name__, ending.retry_in)
    except ClaimLost as lost:
        call.report(run.entry).lost(lost.owner)
    except IdempotencyError:
        logger.exception("%s: the claim could not be released; its lease will", run.claimant.email_type)
    else:
        call.report(run.entry).ended(cause)


def _failed(call: Call, run: Run, error: Exception) -> object:
    """Give up and raise ``error``, or `_stop` where this run has nothing to give up any more."""
    stop = error if isinstance(error, ClaimLost | LedgerUnavailable) else run.stopped_by
    if isinstance(stop, ClaimLost | LedgerUnavailable):
        return _stop(call, run, stop)
    try:
        if _leaves_doubt(call, run, error):
            run.doubt(type(error).__name__)
        else:
            run.fail(type(error).__name__)
    except ClaimLost as lost:
        return _stop(call, run, lost)
    except IdempotencyError:
        logger.exception("%s: the failure could not be recorded", run.claimant.email_type)
    else:
        call.report(run.entry).ended(error)
    raise error


def _leaves_doubt(call: Call, run: Run, error: Exception) -> bool:
    """Tell whether ``error`` says nothing about what was done, by a body that the ledger cannot see into."""
    return run.policy.opaque and isinstance(error, (*call.interrupts, *call.task.in_doubt_for))


def _unconfirmed(call: Call, run: Run, error: DeliveryUnconfirmed) -> object:
    """Come back for what the provider would recognise; until then it is in doubt, and others may settle it."""
    try:
        run.release(type(error).__name__)
    except ClaimLost as lost:
        return _stop(call, run, lost)
    except IdempotencyError:
        logger.exception("%s: still held by this run until its deadline", run.claimant.email_type)
    return call.snooze(call.backoff(), error)


def _not_offered_again(run: Run) -> DeliveryInDoubt:
    return DeliveryInDoubt(
        f"{run.claimant.email_type}: the body ended without sending what is in doubt of {run.entry.key} again"
    )


def _stop(call: Call, run: Run, error: IdempotencyError) -> object:
    """End a run that may not go on: nothing of its outcome is its own to report.

    If its own redelivery was first, this returns that one's result, or leaves the job to it.
    """
    if not isinstance(error, ClaimLost):
        call.snooze(call.backoff(), error)
    call.report(run.entry).lost(error.owner)
    if error.owner != run.claimant.task_id or call.local:
        # Longer each time: the other one is in its hand-over, or has done more than claim.
        call.snooze(max(run.policy.lease, call.backoff()), error)
    try:
        stored = run.ledger.store.get(run.claimant.key)
    except LedgerUnavailable as unavailable:
        call.snooze(call.backoff(), unavailable)
    if stored is not None and stored.entry.status is Status.SENT and not stored.entry.unfinished:
        return load(stored.entry.result)
    raise TakenOver(run.policy.lease, error) from error
