"""One email's way through the ledger, step by step, up to the state that a test needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery_idempotent.core.entry import Recipient
from celery_idempotent.core.interventions import Operator
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import (
    Acquired,
    Asker,
    Policy,
    Reply,
    Verdict,
)
from celery_idempotent.core.status import DeliveryStatus, Status

ONE = Asker("k", "mail", "task-1", fingerprint="f")
TWO = replace(ONE, task_id="task-2")
POLICY = Policy(lease=60, send_timeout=30)
ANN = Recipient("a", "a***")
TARGET = ("0", ANN)
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250)}


def claimed(ledger: Ledger, asker: Asker = ONE, policy: Policy = POLICY) -> Any:
    outcome = ledger.claim(asker, policy)
    assert isinstance(outcome, Acquired)
    return outcome.entry


def sending(ledger: Ledger) -> Any:
    return ledger.begin(claimed(ledger), [TARGET], "<m@x>", ONE, POLICY)


def sent(ledger: Ledger, asker: Asker = ONE, policy: Policy = POLICY) -> Any:
    entry = ledger.begin(claimed(ledger, asker, policy), [TARGET], "<m@x>", asker, policy)
    entry = ledger.settle(entry, ACCEPTED, "<m@x>", asker, policy)
    return ledger.complete(entry, {"ok": 1})


def doubtful(ledger: Ledger) -> Any:
    entry = ledger.settle(sending(ledger), {TARGET: Reply(DeliveryStatus.IN_DOUBT)}, "<m@x>", ONE, POLICY)
    assert entry.status is Status.IN_DOUBT
    assert ledger.fail(entry, "x") == entry
    return entry


def failed(ledger: Ledger) -> Any:
    entry = ledger.settle(sending(ledger), {TARGET: Reply(DeliveryStatus.REFUSED, 550)}, "<m@x>", ONE, POLICY)
    return ledger.fail(entry, "RecipientsRefused")


DECISIONS: dict[str, Callable[[Operator, Any], Any]] = {
    "resolve": lambda operator, entry: operator.resolve(entry, Verdict.SENT),
    "cancel": lambda operator, entry: operator.cancel(entry),
    "release": lambda operator, entry: operator.release(entry),
    "reopen": lambda operator, entry: operator.reopen(entry),
    "resend": lambda operator, entry: operator.resend(entry, "task-9", 60),
}
