"""A proof before or after a hand-over's deadline: no doubt is left, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_idempotent.exceptions import ClaimLost
from celery_idempotent.ledger.deadlines import expire
from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired
from celery_idempotent.ledger.policy import Policy
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.testing import FakeClock, hold
from tests.ledger.provider_reports import ANN, ONE, POLICY, TWO, YES, begun, event, statuses, told


def finishing(ledger: Ledger, policy: Policy = POLICY) -> Entry:
    outcome = ledger.claim(ONE, policy)
    assert isinstance(outcome, Acquired), outcome
    return outcome.entry


def test_a_late_reply_after_the_proof(ledger: Ledger, clock: FakeClock) -> None:
    """A slow run has lost its claim to nobody; it comes back as itself and goes on from there."""
    entry = begun(ledger)
    clock.forward(31)
    assert told(ledger, event()).status is Status.SENT
    with pytest.raises(ClaimLost) as lost:
        hold(ledger, entry, ONE, POLICY).settle({ANN: YES}, "<m>")
    assert lost.value.owner is None
    assert statuses(finishing(ledger)) == [DeliveryStatus.ACCEPTED]


def test_a_refusal_that_is_proven_after_the_deadline(ledger: Ledger, clock: FakeClock) -> None:
    """Nobody has got anything, so no window counts from it."""
    begun(ledger)
    told(ledger, event("rejected"))
    clock.forward(31)
    entry = expire(ledger.store, "k")
    assert entry is not None
    assert (entry.status, entry.sent_at, statuses(entry)) == (Status.RELEASED, None, [DeliveryStatus.REFUSED])


def test_a_window_counts_from_a_proof_that_nobody_had_called_a_doubt(ledger: Ledger, clock: FakeClock) -> None:
    """P2: an acceptance without a time would answer every later email as a duplicate, for ever."""
    begun(ledger)
    clock.forward(31)
    entry = told(ledger, event())
    assert (entry.status, entry.sent_at) == (Status.SENT, clock.now)
    clock.forward(101)
    assert isinstance(ledger.claim(TWO, replace(POLICY, window=100.0)), Acquired)


def test_a_deadline_that_passes_after_the_proof(ledger: Ledger, clock: FakeClock) -> None:
    """P2: found by the sweep, it is no doubt for anybody to wait with: the next one finishes it."""
    begun(ledger)
    told(ledger, event())
    clock.forward(31)
    entry = expire(ledger.store, "k")
    assert entry is not None
    assert (entry.status, entry.deadline, statuses(entry)) == (Status.RELEASED, None, [DeliveryStatus.ACCEPTED])
    assert entry.sent_at == clock.now
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Acquired)
    assert statuses(outcome.entry) == [DeliveryStatus.ACCEPTED]
