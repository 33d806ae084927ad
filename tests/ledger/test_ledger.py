"""The table of what a claim finds, row by row, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_idempotent.exceptions import ClaimLost
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Duplicate, Held, Mismatch, Reply
from celery_idempotent.ledger.policy import Claimant, Verdict
from celery_idempotent.ledger.status import IN_FLIGHT, TRANSITIONS, DeliveryStatus, Status
from celery_idempotent.testing import FakeClock, hold, race
from tests.ledger.entry_stages import ACCEPTED, ONE, POLICY, TARGET, TWO, claimed, doubtful, sending, sent


def test_nothing_found(ledger: Ledger) -> None:
    """The first claim gets the key."""
    assert claimed(ledger).status is Status.CLAIMED


def test_claimed_by_the_same_task(ledger: Ledger) -> None:
    """P4: a redelivery takes over at once, and the version fences the other run off."""
    old = claimed(ledger)
    new = claimed(ledger)
    with pytest.raises(ClaimLost) as lost:
        hold(ledger, old, ONE, POLICY).begin([TARGET], "<m@x>")
    assert lost.value.owner == "task-1"
    assert hold(ledger, new, ONE, POLICY).begin([TARGET], "<m@x>").status is Status.SENDING


def test_claimed_by_another_task(ledger: Ledger, clock: FakeClock) -> None:
    """Busy while the lease runs, to the microsecond; acquired as soon as it has passed."""
    old = claimed(ledger)
    clock.forward(59.999999)
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Busy)
    assert 0 < outcome.retry_after < 0.001
    clock.forward(0.000001)
    assert claimed(ledger, TWO).owner == "task-2"
    with pytest.raises(ClaimLost):
        hold(ledger, old).complete(None)


@pytest.mark.parametrize("claimant", [ONE, TWO])
def test_sending_with_a_running_deadline(ledger: Ledger, clock: FakeClock, claimant: Claimant) -> None:
    """Nobody touches a hand-over in flight, not even its own task."""
    sending(ledger)
    clock.forward(29)
    outcome = ledger.claim(claimant, POLICY)
    assert isinstance(outcome, Busy)
    assert outcome.retry_after == pytest.approx(1)


@pytest.mark.parametrize("claimant", [ONE, TWO])
def test_sending_whose_deadline_has_passed(ledger: Ledger, clock: FakeClock, claimant: Claimant) -> None:
    """It becomes in doubt, deliveries and attempt included, and is held."""
    late = sending(ledger)
    clock.forward(30)
    outcome = ledger.claim(claimant, POLICY)
    assert isinstance(outcome, Held)
    assert outcome.entry.status is Status.IN_DOUBT
    assert outcome.entry.deliveries[0].status is DeliveryStatus.IN_DOUBT
    assert outcome.found
    assert outcome.entry.history[0].outcome is DeliveryStatus.IN_DOUBT
    assert outcome.entry.history[0].ended_at == clock.now
    again = ledger.claim(claimant, POLICY)
    assert isinstance(again, Held)
    assert not again.found
    # The process lives after all and knows: its word settles the doubt, as nobody has acted on it.
    settled = hold(ledger, late, ONE, POLICY).settle(ACCEPTED, "<m@x>")
    assert (settled.status, settled.deliveries[0].status) == (Status.CLAIMED, DeliveryStatus.ACCEPTED)
    assert settled.history[0].outcome is DeliveryStatus.ACCEPTED


def test_a_late_outcome_after_somebody_acted_on_the_doubt(ledger: Ledger, clock: FakeClock) -> None:
    """The sender that comes back is fenced off by the newer claim."""
    late = sending(ledger)
    clock.forward(30)
    claimed(ledger, TWO, replace(POLICY, in_doubt="resend"))
    with pytest.raises(ClaimLost) as lost:
        hold(ledger, late, ONE, POLICY).settle(ACCEPTED, "<m@x>")
    assert lost.value.owner == "task-2"


def test_a_late_end_of_an_opaque_body(ledger: Ledger, clock: FakeClock) -> None:
    """It took longer than its deadline and a duplicate saw that; what it knows stands all the same."""
    opaque = replace(POLICY, opaque=True)
    late = claimed(ledger, ONE, opaque)
    clock.forward(31)
    assert isinstance(ledger.claim(TWO, opaque), Held)
    assert hold(ledger, late).complete("done").status is Status.SENT
    assert isinstance(ledger.claim(TWO, opaque), Duplicate)


def test_released_for_a_scheduled_retry(ledger: Ledger, clock: FakeClock) -> None:
    """A duplicate does not defeat the owner's backoff; the owner's own retry is never blocked."""
    hold(ledger, claimed(ledger), policy=POLICY).release(retry_in=100)
    assert isinstance(ledger.claim(TWO, POLICY), Busy)
    clock.forward(159)
    assert isinstance(ledger.claim(TWO, POLICY), Busy)
    assert claimed(ledger).owner == "task-1"


def test_released_and_the_retry_never_came(ledger: Ledger, clock: FakeClock) -> None:
    """After the retry's time and a lease the key is anybody's."""
    hold(ledger, claimed(ledger), policy=POLICY).release(retry_in=100)
    clock.forward(160)
    assert claimed(ledger, TWO).owner == "task-2"


def test_released_without_a_retry(ledger: Ledger) -> None:
    """Free at once."""
    hold(ledger, claimed(ledger), policy=POLICY).release()
    assert claimed(ledger, TWO).owner == "task-2"


def test_sent(ledger: Ledger, clock: FakeClock) -> None:
    """P3: for ever the recorded result, and who sent it."""
    sent(ledger)
    clock.forward(10 * 365 * 86400)
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Duplicate)
    assert outcome.entry.result == {"ok": 1}
    assert outcome.entry.owner == "task-1"


def test_sent_and_the_window_has_passed(ledger: Ledger, clock: FakeClock) -> None:
    """At the window's end to the microsecond: a new generation, for a task id that did not take part."""
    policy = replace(POLICY, window=3600)
    sent(ledger, policy=policy)
    clock.forward(3599.999999)
    assert isinstance(ledger.claim(TWO, policy), Duplicate)
    clock.forward(0.000001)
    assert isinstance(ledger.claim(ONE, policy), Duplicate)
    assert isinstance(ledger.claim(TWO, policy), Duplicate), "took part as a duplicate"
    fresh = claimed(ledger, replace(ONE, task_id="task-3"), policy)
    assert (fresh.generation, fresh.deliveries) == (2, ())
    for old in (ONE, TWO):
        replayed = ledger.claim(old, policy)
        assert isinstance(replayed, Duplicate), "took part before, so it never sends again"
        assert replayed.entry.result == {"ok": 1}


def test_failed(ledger: Ledger) -> None:
    """A new claim may try again; what was accepted or refused for good stays known."""
    entry = sending(ledger)
    entry = hold(ledger, entry, ONE, POLICY).settle({TARGET: Reply(DeliveryStatus.REFUSED, 550)}, "<m@x>")
    hold(ledger, entry).fail("RecipientsRefused")
    again = claimed(ledger, TWO)
    assert again.generation == 1
    assert again.deliveries[0].status is DeliveryStatus.REFUSED


def test_in_doubt_and_hold(ledger: Ledger) -> None:
    """Held, for everybody."""
    doubtful(ledger)
    assert isinstance(ledger.claim(ONE, POLICY), Held)


def test_in_doubt_and_resend(ledger: Ledger) -> None:
    """Acquired, and the doubtful recipient may be offered it again; the audit says so for good."""
    doubtful(ledger)
    entry = sent(ledger, ONE, replace(POLICY, in_doubt="resend"))
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.ACCEPTED]
    assert entry.attempts == 2
    (one,) = entry.audit
    assert (one.action, one.actor, one.reason, one.found) == (
        "offered again in doubt",
        "in_doubt",
        'in_doubt="resend"',
        Status.IN_DOUBT,
    )


@pytest.mark.parametrize(
    ("verdict", "status", "after"),
    [(Verdict.SENT, DeliveryStatus.ACCEPTED, 0), (Verdict.NOT_SENT, DeliveryStatus.DEFERRED, 60)],
)
def test_in_doubt_and_a_verifier(
    ledger: Ledger, clock: FakeClock, verdict: Verdict, status: DeliveryStatus, after: float
) -> None:
    """The verifier's word settles the deliveries, and the body is finished."""
    doubtful(ledger)
    clock.forward(after)
    entry = claimed(ledger, TWO, replace(POLICY, in_doubt=lambda entry: verdict))
    assert entry.deliveries[0].status is status
    assert [one.reason for one in entry.audit] == [f"the verifier says: {verdict.value}"]


def test_a_verifier_that_does_not_find_the_mail_yet(ledger: Ledger, clock: FakeClock) -> None:
    """Until the send deadline the server may still take it, so the claim waits, and asks again then."""
    doubtful(ledger)
    policy = replace(POLICY, in_doubt=lambda entry: Verdict.NOT_SENT)
    clock.forward(POLICY.send_timeout - 1)
    found = ledger.claim(TWO, policy)
    assert isinstance(found, Busy)
    assert (found.entry.status, found.retry_after) == (Status.IN_DOUBT, 1.0)
    clock.forward(1)
    assert isinstance(ledger.claim(TWO, policy), Acquired)


def test_in_doubt_and_a_verifier_that_does_not_know_or_breaks(ledger: Ledger) -> None:
    """Held; a broken verifier decides nothing."""
    doubtful(ledger)

    def broken(entry: Any) -> Verdict:
        raise ValueError

    for verifier in (lambda entry: Verdict.UNKNOWN, broken):
        assert isinstance(ledger.claim(TWO, replace(POLICY, in_doubt=verifier)), Held)


def test_an_opaque_body_verified_as_done_is_not_run_again(ledger: Ledger, clock: FakeClock) -> None:
    """To finish it would be to do it twice."""
    opaque = replace(POLICY, opaque=True)
    assert claimed(ledger, ONE, opaque).status is Status.SENDING
    clock.forward(31)
    outcome = ledger.claim(TWO, replace(opaque, in_doubt=lambda entry: Verdict.SENT))
    assert isinstance(outcome, Duplicate)
    assert outcome.entry.status is Status.SENT


def test_cancelled(ledger: Ledger) -> None:
    """A duplicate without a result."""
    entry = claimed(ledger)
    ledger.store.swap(replace(entry, status=Status.CANCELLED, deadline=None), entry.version)
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Duplicate)
    assert outcome.entry.result is None


def test_other_content_under_one_key(ledger: Ledger) -> None:
    """Told, or refused; identical content is neither, also after completion."""
    sent(ledger)
    other = replace(TWO, fingerprint="g")
    told = ledger.claim(other, POLICY)
    assert isinstance(told, Duplicate)
    assert told.mismatch
    assert isinstance(ledger.claim(other, replace(POLICY, raise_on_mismatch=True)), Mismatch)
    same = ledger.claim(TWO, replace(POLICY, raise_on_mismatch=True))
    assert isinstance(same, Duplicate)
    assert not same.mismatch


def test_one_of_many_claims_wins(ledger: Ledger) -> None:
    """P1: a race for a new key, for a released one and for one whose lease has passed has one winner."""
    for round_ in range(50):
        key = f"key-{round_}"
        if round_ % 2:
            entry = claimed(ledger, replace(ONE, key=key))
            hold(ledger, entry, policy=POLICY).release()
        outcomes = race(lambda n, key=key: ledger.claim(replace(ONE, key=key, task_id=f"racer-{n}"), POLICY))
        assert sum(isinstance(outcome, Acquired) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Busy) for outcome in outcomes) == len(outcomes) - 1


def test_a_write_whose_confirmation_was_lost_is_recognised(ledger: Ledger) -> None:
    """P6: trying an outcome again after it was stored is not a lost claim."""
    entry = sending(ledger)
    first = hold(ledger, entry, ONE, POLICY).settle(ACCEPTED, "<m@x>")
    assert hold(ledger, entry, ONE, POLICY).settle(ACCEPTED, "<m@x>") == first


def test_every_status_has_its_transitions() -> None:
    """The table is complete, and nothing in flight is a dead end."""
    assert set(TRANSITIONS) == set(Status)
    assert all(TRANSITIONS[status] - {status} for status in IN_FLIGHT)
