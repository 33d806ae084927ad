"""Claim the key of one call: it may run, is answered, is snoozed, or ends with an error."""

from __future__ import annotations

from ..email_types.email_type import email_type_of
from ..exceptions import DeliveryInDoubt, InProgress, LedgerUnavailable, PayloadMismatch
from ..ledger.entry import Entry
from ..ledger.ledger import Ledger
from ..ledger.outcomes import Acquired, Busy, Duplicate, Held, Mismatch
from ..ledger.policy import Claimant
from ..stores.factory import get_ledger
from .call import Call
from .run import Run


def claim(call: Call) -> Run | Duplicate:
    """Claim the key. Returns the run that may go on, or the duplicate whose result is to be replayed.

    Raises `Snooze`, and what ends the call: `InProgress`, `DeliveryInDoubt`, `PayloadMismatch`, and
    `KeyFieldError` where the task's window is none.
    """
    rules = email_type_of(call.task).policy(call.opaque)
    ledger = get_ledger(call.app, eager=call.eager)
    try:
        outcome = ledger.claim(call.claimant, rules)
    except LedgerUnavailable as error:
        call.snooze(call.backoff(), error)
    match outcome:
        case Acquired(held, mismatch):
            report = call.report(held.entry)
            report.mismatch(mismatch)
            report.claimed()
            return Run(ledger, held)
        case Duplicate():
            return _duplicate(call, ledger, outcome)
        case Busy():
            return _busy(call, outcome)
        case Held():
            raise _held(call, ledger, outcome)
        case Mismatch(entry):
            raise _mismatch(call.claimant, entry)


def _duplicate(call: Call, ledger: Ledger, duplicate: Duplicate) -> Duplicate:
    entry = duplicate.entry
    report = call.report(entry)
    report.mismatch(duplicate.mismatch)
    if duplicate.settled or entry.owner == call.claimant.task_id:
        ledger.show(entry)  # this run's predecessor may have died before it got there
    else:
        ledger.count(entry)
    report.duplicate()
    return duplicate


def _busy(call: Call, busy: Busy) -> Duplicate:
    """Do as the task's ``on_conflict`` says while somebody else is at work; with "skip", nobody waits.

    For the end of its own hand-over a task always waits: nobody else would send what was not sent.
    """
    entry = busy.entry
    error = InProgress(f"{call.claimant.email_type}: {entry.owner} works on {entry.key}", busy.retry_after)
    on_conflict = "retry" if entry.owner == call.claimant.task_id else call.task.on_conflict
    if on_conflict == "raise":
        raise error
    if on_conflict == "skip":
        call.report(entry).duplicate()
        return Duplicate(entry)
    # Whoever works on it is usually done long before the lease ends.
    return call.snooze(min(busy.retry_after, call.backoff()), error)


def _held(call: Call, ledger: Ledger, held: Held) -> DeliveryInDoubt:
    """Return the error of a call that finds a doubt, which has been reported then."""
    entry = held.entry
    error = DeliveryInDoubt(
        f"{call.claimant.email_type}: the outcome of an earlier hand-over of {entry.key} is unknown; "
        "an operator or a verifier has to decide"
    )
    report = call.report(entry)
    report.ended(error) if held.found else report.held()
    ledger.show(entry)
    return error


def _mismatch(claimant: Claimant, entry: Entry) -> PayloadMismatch:
    return PayloadMismatch(
        f"{claimant.email_type}: {entry.key} ({claimant.label}) was asked for before with other content, "
        f"by task {entry.owner}. If the content may differ, set fingerprint_fields or on_mismatch"
    )
