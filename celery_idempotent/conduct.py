"""One call of a task or function: its claim, its body, and what is recorded of it. The same for every queue.

A queue's adapter describes the call by a `Call`, and translates what leaves `claim` and `conduct`: a result, an
error of the body's own, or `ComeBack`.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn

from celery import Celery

from .core.deliveries import in_doubt
from .core.entry import Entry
from .core.errors import (
    ClaimLost,
    DeliveryInDoubt,
    DeliveryUnconfirmed,
    IdempotencyError,
    InProgress,
    LedgerUnavailable,
    PayloadMismatch,
    RecipientsDeferred,
)
from .core.outcomes import Acquired, Asker, Busy, Duplicate, Held, Mismatch, Outcome
from .core.status import DeliveryStatus, Status
from .options import policy
from .reporting import Report
from .results import dump, load
from .run import Run
from .wiring import get_ledger, get_mirror

logger = logging.getLogger("celery_idempotent")

LONGEST_WAIT = 900.0
"""Seconds; half of the 30 minutes after which RabbitMQ gives up a consumer that does not acknowledge."""
_LONGEST_BACKOFF = 300.0
_FIRST_DEFERRAL = 60.0


class ComeBack(Exception):
    """Raised when a call has to be made again in ``wait`` seconds, without spending retries of its own.

    ``counts`` names what the job's note counts with it.
    """

    def __init__(self, wait: float, cause: Exception, counts: str = "waits") -> None:
        super().__init__(f"comes back in {wait:.1f} s: {cause}")
        self.wait = wait
        self.cause = cause
        self.counts = counts

    def counted(self, note: dict[str, Any]) -> dict[str, Any]:
        """Return the job's ``note`` with this one counted."""
        return {**note, self.counts: note.get(self.counts, 0) + 1}


class TakenOver(ComeBack):
    """Raised when a redelivery of this very call is at work in its place, and will report the outcome."""


class Next(Enum):
    """What a queue does after a body raised."""

    GIVES_UP = "gives up"
    RUNS_AGAIN = "runs again"
    IS_DONE = "is done"
    """The body ended on purpose without a result."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a body's run ended in the eyes of its queue."""

    then: Next
    cause: Exception
    retry_in: float | None = None
    """Seconds after which the queue runs it again, if it knows."""


class Call(ABC):
    """One delivery of one job, as its queue sees it."""

    task: Any
    """The task or function: the options, and the signals' sender."""
    asker: Asker
    opaque: bool = False
    """The body's sends cannot be seen by the ledger."""
    local: bool = False
    """Nobody would make this call again: errors go to the caller."""
    eager: bool = False
    """It runs inside its caller's transaction."""
    waits: int = 0
    """How often it has come back already, because somebody else was at work or the ledger did not answer."""
    deferrals: int = 0
    """How often it has come back because the mail server did not take the mail yet."""
    interrupts: tuple[type[BaseException], ...] = ()
    """Raised into the body by the queue, at any point: a time limit."""
    app: Celery | None = None

    @abstractmethod
    def ending(self, error: Exception) -> Ending:
        """Tell what the queue does after the body raised ``error``."""

    def raise_in_body(self, error: Exception) -> NoReturn:
        """Raise what leaves the body if ``error`` is raised in it: its queue may have put retries around it."""
        raise error

    def retries_itself(self, error: Exception) -> bool:
        """Tell whether its queue or its body has retries for ``error``, or nobody could bring it back later."""
        return True

    @abstractmethod
    def note(self, outcome: dict[str, Any]) -> None:
        """Keep ``outcome`` beside the job's result, for people to see."""

    def event(self, kind: str, entry: Entry) -> None:
        """Send an event, where the queue has such."""
        return

    def report(self, entry: Entry) -> Report:
        """Return what tells the outcome."""
        return Report(self.task, self.asker, entry, self)

    def backoff(self) -> float:
        """Return how many seconds to wait before the next try, from how often it has waited."""
        return float(min(2.0 ** min(self.waits, 16), _LONGEST_BACKOFF))

    def come_back(self, wait: float, error: Exception, counts: str = "waits") -> NoReturn:
        """Raise `ComeBack`, or ``error`` itself where nobody would."""
        if self.local:
            raise error
        wait = min(wait * random.uniform(1.0, 1.1) + 0.05, LONGEST_WAIT)
        logger.info("%s[%s] comes back in %.1f s: %s", self.task.name, self.asker.task_id, wait, error)
        raise ComeBack(wait, error, counts) from error


# -- the claim -------------------------------------------------------------------------------------------


def claim(call: Call) -> Run | Duplicate:
    """Claim the key. Returns the run that may go on, or the duplicate whose result is to be replayed.

    Raises `ComeBack`, and what ends the call: `InProgress`, `DeliveryInDoubt`, `PayloadMismatch`.
    """
    rules = policy(call.task, call.opaque)
    ledger = get_ledger(call.app, eager=call.eager)
    try:
        outcome = ledger.claim(call.asker, rules)
    except LedgerUnavailable as error:
        call.come_back(call.backoff(), error)
    match outcome:
        case Acquired(entry, mismatch):
            report = call.report(entry)
            report.mismatch(mismatch)
            report.claimed()
            return Run(ledger, call.asker, rules, entry, get_mirror(call.app))
        case Duplicate(entry, mismatch, settled):
            report = call.report(entry)
            report.mismatch(mismatch)
            if mirror := get_mirror(call.app):
                # This run's predecessor may have died before it got there.
                mirror.keep(entry) if settled or entry.owner == call.asker.task_id else mirror.count(entry)
            report.duplicate()
            return outcome
        case _:
            return _refused(call, outcome)


def _refused(call: Call, outcome: Outcome) -> Duplicate:
    asker = call.asker
    match outcome:
        case Busy(entry, retry_after):
            busy = InProgress(f"{asker.email_type}: {entry.owner} works on {entry.key}", retry_after)
            if call.task.on_conflict == "raise":
                raise busy
            if call.task.on_conflict == "skip":
                call.report(entry).duplicate()
                return Duplicate(entry)
            # Whoever works on it is usually done long before the lease ends.
            call.come_back(min(retry_after, call.backoff()), busy)
        case Held(entry, found):
            error = DeliveryInDoubt(
                f"{asker.email_type}: the outcome of an earlier hand-over of {entry.key} is unknown; "
                "an operator or a verifier has to decide"
            )
            report = call.report(entry)
            report.ended(error) if found else report.held()
            if mirror := get_mirror(call.app):
                mirror.keep(entry)
            raise error
        case Mismatch(entry):
            raise PayloadMismatch(
                f"{asker.email_type}: {entry.key} ({asker.label}) was asked for before with other content, "
                f"by task {entry.owner}. If the content may differ, set fingerprint_fields or on_mismatch"
            )
    raise AssertionError(outcome)


# -- the body --------------------------------------------------------------------------------------------


def conduct(call: Call, state: Run | Duplicate, body: Callable[[], Any]) -> Any:
    """Run ``body`` under the claim and record its outcome, or return the recorded result of a duplicate.

    Raises what the body raises, or `ComeBack`.
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
        logger.warning("%s: interrupted by %r", run.asker.email_type, error)
        raise
    return _succeeded(call, run, result)


def _raise_swallowed(call: Call, run: Run) -> None:
    """Raise what a body that ended well should not have swallowed, as if that had been its end."""
    if run.stopped_by is None and (error := run.unserved.owed(run.entry.deliveries)):
        logger.warning("%s: the body swallowed %r, which counts", run.asker.email_type, type(error).__name__)
        call.raise_in_body(error)


def _raised(call: Call, run: Run, error: Exception) -> Any:
    if isinstance(run.stopped_by, DeliveryUnconfirmed):
        return _unconfirmed(call, run, run.stopped_by)
    ending = call.ending(error)
    swallowed = run.stopped_by or run.unserved.owed(run.entry.deliveries)
    if ending.then is Next.IS_DONE and swallowed is not None:
        return _failed(call, run, swallowed)
    if ending.then is Next.GIVES_UP and not _is_offered_again(call, run, error):
        return _failed(call, run, error)
    if ending.then is Next.GIVES_UP:
        wait = deferral(call.deferrals, error)
        _let_go(call, run, Ending(Next.RUNS_AGAIN, error, wait))
        call.come_back(wait, error, "deferrals")
    _let_go(call, run, ending)
    raise error


def _is_offered_again(call: Call, run: Run, error: Exception) -> bool:
    """Tell whether what may pass is offered again without the task having said anything about it."""
    if run.stopped_by is not None or call.local or call.deferrals >= call.task.deferred_retries:
        return False
    passes = isinstance(error, RecipientsDeferred) or run.unserved.passes(error)
    return passes and not call.retries_itself(error)


def deferral(times: int, error: Exception) -> float:
    """Return the seconds until recipients are offered the mail again that were refused so many ``times``."""
    asked = getattr(error, "retry_after", None) or 0.0
    return float(min(max(_FIRST_DEFERRAL * 2.0 ** min(times, 16), asked), LONGEST_WAIT))


def _succeeded(call: Call, run: Run, result: Any) -> Any:
    if isinstance(run.stopped_by, DeliveryUnconfirmed):
        return _unconfirmed(call, run, run.stopped_by)
    if run.stopped_by is not None:
        return _failed(call, run, run.stopped_by)  # the body swallowed it: nobody would send that mail
    if in_doubt(run.entry):
        return _failed(call, run, _not_offered_again(run))
    try:
        run.complete(dump(result, run.asker.email_type))
    except (ClaimLost, LedgerUnavailable) as error:
        return _stop(call, run, error)
    if not run.policy.opaque:
        _warn_of_unsent(run)
    call.report(run.entry).sent()
    return result


def _warn_of_unsent(run: Run) -> None:
    found = run.entry.deliveries
    if not found:
        logger.warning("%s: the body ended without handing any mail over", run.asker.email_type)
    elif run.unserved.left(found) or any(d.status is not DeliveryStatus.ACCEPTED for d in found):
        logger.warning("%s: the body ended with recipients that were not served", run.asker.email_type)


def _let_go(call: Call, run: Run, ending: Ending) -> None:
    cause = ending.cause
    try:
        if run.policy.opaque and isinstance(cause, _doubtful(call)):
            run.doubt(type(cause).__name__)
        elif ending.then is Next.IS_DONE and (run.policy.opaque or run.entry.deliveries):
            run.complete(None)  # replaced, or a body that wants no result: it has done its work
            report = call.report(run.entry)
            report.ended(_not_offered_again(run)) if in_doubt(run.entry) else report.sent()
            return
        else:
            run.release(type(cause).__name__, ending.retry_in)
    except ClaimLost as lost:
        call.report(run.entry).lost(lost.owner)
    except IdempotencyError:
        logger.exception("%s: the claim could not be released; its lease will", run.asker.email_type)
    else:
        call.report(run.entry).ended(cause)


def _failed(call: Call, run: Run, error: Exception) -> Any:
    stop = error if isinstance(error, ClaimLost | LedgerUnavailable) else run.stopped_by
    if isinstance(stop, ClaimLost | LedgerUnavailable):
        return _stop(call, run, stop)
    try:
        if run.policy.opaque and isinstance(error, _doubtful(call)):
            run.doubt(type(error).__name__)
        else:
            run.fail(type(error).__name__)
    except ClaimLost as lost:
        return _stop(call, run, lost)
    except IdempotencyError:
        logger.exception("%s: the failure could not be recorded", run.asker.email_type)
    else:
        call.report(run.entry).ended(error)
    raise error


def _unconfirmed(call: Call, run: Run, error: DeliveryUnconfirmed) -> Any:
    """Come back for what the provider would recognise; until then it is in doubt, and others may settle it."""
    try:
        run.release(type(error).__name__)
    except ClaimLost as lost:
        return _stop(call, run, lost)
    except IdempotencyError:
        logger.exception("%s: still held by this run until its deadline", run.asker.email_type)
    return call.come_back(call.backoff(), error)


def _not_offered_again(run: Run) -> DeliveryInDoubt:
    return DeliveryInDoubt(
        f"{run.asker.email_type}: the body ended without sending what is in doubt of {run.entry.key} again"
    )


def _stop(call: Call, run: Run, error: IdempotencyError) -> Any:
    """End a run that may not go on: nothing of its outcome is its own to report.

    If its own redelivery was first, this returns that one's result, or leaves the job to it.
    """
    if not isinstance(error, ClaimLost):
        call.come_back(call.backoff(), error)
    call.report(run.entry).lost(error.owner)
    if error.owner != run.asker.task_id or call.local:
        # Longer each time: the other one is in its hand-over, or has done more than claim.
        call.come_back(max(run.policy.lease, call.backoff()), error)
    try:
        stored = run.ledger.store.get(run.asker.key)
    except LedgerUnavailable as unavailable:
        call.come_back(call.backoff(), unavailable)
    if stored is not None and stored.entry.status is Status.SENT and not stored.entry.unfinished:
        return load(stored.entry.result)
    raise TakenOver(run.policy.lease, error) from error


def _doubtful(call: Call) -> tuple[type[BaseException], ...]:
    return (*call.interrupts, *call.task.in_doubt_for)
