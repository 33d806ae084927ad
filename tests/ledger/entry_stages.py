"""One email's way through the ledger, step by step, up to the state that a test needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Policy, Verdict
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.testing import hold

ONE = Claimant("k", "mail", "task-1", fingerprint="f")
TWO = replace(ONE, task_id="task-2")
POLICY = Policy(lease=60, send_timeout=30)
ANN = Recipient("a", "a***")
TARGET = ("0", ANN)
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250)}


def claimed(ledger: Ledger, claimant: Claimant = ONE, policy: Policy = POLICY) -> Any:
    outcome = ledger.claim(claimant, policy)
    assert isinstance(outcome, Acquired)
    return outcome.entry


def sending(ledger: Ledger) -> Any:
    return hold(ledger, claimed(ledger), ONE, POLICY).begin([TARGET], "<m@x>")


def sent(ledger: Ledger, claimant: Claimant = ONE, policy: Policy = POLICY) -> Any:
    entry = hold(ledger, claimed(ledger, claimant, policy), claimant, policy).begin([TARGET], "<m@x>")
    entry = hold(ledger, entry, claimant, policy).settle(ACCEPTED, "<m@x>")
    return hold(ledger, entry).complete({"ok": 1})


def doubtful(ledger: Ledger) -> Any:
    entry = hold(ledger, sending(ledger), ONE, POLICY).settle({TARGET: Reply(DeliveryStatus.IN_DOUBT)}, "<m@x>")
    assert entry.status is Status.IN_DOUBT
    assert hold(ledger, entry).fail("x") == entry
    return entry


def failed(ledger: Ledger) -> Any:
    entry = hold(ledger, sending(ledger), ONE, POLICY).settle(
        {TARGET: Reply(DeliveryStatus.REFUSED, 550)}, "<m@x>"
    )
    return hold(ledger, entry).fail("RecipientsRefused")


DECISIONS: dict[str, Callable[[Operator, Any], Any]] = {
    "resolve": lambda operator, entry: operator.resolve(entry, Verdict.SENT),
    "cancel": lambda operator, entry: operator.cancel(entry),
    "release": lambda operator, entry: operator.release(entry),
    "reopen": lambda operator, entry: operator.reopen(entry),
    "resend": lambda operator, entry: operator.resend(entry, "task-9", 60),
}
