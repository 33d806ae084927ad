"""Processes that are slow and not dead, and deadlines that pass: what a late word still counts for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from celery_idempotent.exceptions import ClaimLost, TransitionForbidden
from celery_idempotent.ledger.claims import Claim
from celery_idempotent.ledger.deadlines import expire
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Duplicate, Held, Reply
from celery_idempotent.ledger.policy import Verdict
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.ledger.writes import swap
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import FakeClock, hold
from tests.ledger.entry_stages import ACCEPTED, DECISIONS, ONE, POLICY, TARGET, TWO, claimed, sending, sent


def test_a_slow_body_goes_on_after_its_claim_was_released(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """Nobody has claimed since, so the run that holds the claim may send: by sweep or by hand."""
    entry = claimed(ledger)
    clock.forward(61)
    released = expire(ledger.store, "k")
    assert released is not None
    assert released.status is Status.RELEASED
    entry = hold(ledger, hold(ledger, entry, ONE, POLICY).begin([TARGET], "<m@x>"), ONE, POLICY).settle(
        ACCEPTED, "<m@x>"
    )
    clock.forward(61)
    operator.release(entry)
    assert hold(ledger, entry).complete(1).status is Status.SENT


def test_a_slow_body_is_fenced_off_once_somebody_has_claimed(ledger: Ledger, clock: FakeClock) -> None:
    """P1: the release itself is harmless, the next claim counts."""
    entry = claimed(ledger)
    clock.forward(61)
    expire(ledger.store, "k")
    claimed(ledger, TWO)
    with pytest.raises(ClaimLost):
        hold(ledger, entry, ONE, POLICY).begin([TARGET], "<m@x>")


def test_whoever_is_ready_to_send_goes_first(ledger: Ledger, clock: FakeClock) -> None:
    """P2: bodies that outlast the lease do not take the key from each other for ever; P1: one hand-over."""
    slow = claimed(ledger)
    clock.forward(61)
    other = claimed(ledger, TWO)
    outcome = Claim(ledger.store, ONE, POLICY).overtake(slow)
    assert isinstance(outcome, Acquired)
    assert outcome.entry.owner == ONE.task_id
    begun = hold(ledger, outcome.entry, ONE, POLICY).begin([TARGET], "<m@x>")
    assert Claim(ledger.store, TWO, POLICY).overtake(other) is None
    with pytest.raises(ClaimLost):
        hold(ledger, other, TWO, POLICY).begin([TARGET], "<m@x>")
    settled = hold(ledger, begun, ONE, POLICY).settle(ACCEPTED, "<m@x>")
    again = Claim(ledger.store, TWO, POLICY).overtake(other)
    assert isinstance(again, Acquired)
    assert [d.status for d in again.entry.deliveries] == [DeliveryStatus.ACCEPTED]
    assert settled.version < again.entry.version


@pytest.mark.parametrize(
    "since", ["sent", "a retry", "another generation", "other content", "opaque", "purged"]
)
def test_who_is_late_for_good_does_not_overtake(
    ledger: Ledger, clock: FakeClock, operator: Operator, since: str
) -> None:
    """P1: only a mere claim on the same sending gives way."""
    slow, policy = claimed(ledger), POLICY
    clock.forward(61)
    other = claimed(ledger, replace(TWO, fingerprint="g") if since == "other content" else TWO)
    match since:
        case "sent":
            begun = hold(ledger, other, TWO, POLICY).begin([TARGET], "<m@x>")
            hold(ledger, hold(ledger, begun, TWO, POLICY).settle(ACCEPTED, "<m@x>")).complete(None)
        case "a retry":
            hold(ledger, other, policy=POLICY).release(retry_in=30.0)
        case "another generation":
            operator.reopen(hold(ledger, other).fail("x"))
            claimed(ledger, replace(TWO, task_id="task-3"))
        case "other content":
            policy = replace(POLICY, raise_on_mismatch=True)
        case "opaque":
            policy = replace(POLICY, opaque=True)
        case "purged":
            hold(ledger, other).fail("x")
            clock.forward(1)
            assert ledger.store.purge(older_than=0)
    assert Claim(ledger.store, ONE, policy).overtake(slow) is None


def test_a_cancelled_email_is_not_sent_by_a_slow_body(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """It learns that it has lost, and not that another run of its own task took over."""
    entry = claimed(ledger)
    clock.forward(61)
    operator.cancel(entry)
    with pytest.raises(ClaimLost) as lost:
        hold(ledger, entry, ONE, POLICY).begin([TARGET], "<m@x>")
    assert lost.value.owner is None
    assert isinstance(ledger.claim(ONE, POLICY), Duplicate)


def test_a_late_reply_counts_over_not_sent(ledger: Ledger, clock: FakeClock, operator: Operator) -> None:
    """P1: the process that handed over knows better, as long as nobody has claimed since."""
    late = sending(ledger)
    clock.forward(31)
    operator.resolve(late, Verdict.NOT_SENT)
    entry = hold(ledger, late, ONE, POLICY).settle(ACCEPTED, "<m@x>")
    assert entry.deliveries[0].status is DeliveryStatus.ACCEPTED
    assert [one.action for one in entry.audit] == ["resolved as not sent"]


@pytest.mark.parametrize("method", ["reopen", "resend"])
def test_a_new_generation_is_out_of_a_late_process_reach(ledger: Ledger, clock: FakeClock, method: str) -> None:
    """What the old run still has to say is not said about the new sending."""
    late = sending(ledger)
    clock.forward(31)
    operator = Operator(ledger, "ann", "x")
    opened = DECISIONS[method](operator, operator.resolve(late, Verdict.SENT))
    unsent = {TARGET: Reply(DeliveryStatus.DEFERRED)}
    for write in (
        lambda: hold(ledger, late, ONE, POLICY).settle(unsent, "<m@x>"),
        lambda: hold(ledger, late, ONE, POLICY).withdraw([TARGET], "<m@x>"),
        lambda: hold(ledger, late, policy=POLICY).release(),
    ):
        with pytest.raises(ClaimLost):
            write()
    assert ledger.store.get("k").entry == opened  # type: ignore[union-attr]


def test_a_write_ahead_taken_back_late_does_not_undo_a_decision(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """Its confirmation was lost, nothing was sent, and meanwhile somebody has decided: that stands."""
    claim = claimed(ledger)
    late = hold(ledger, claim, ONE, POLICY).begin([TARGET], "<m@x>")
    clock.forward(31)
    decided = operator.cancel(operator.resolve(late, Verdict.NOT_SENT))
    with pytest.raises(ClaimLost):
        hold(ledger, claim, ONE, POLICY).withdraw([TARGET], "<m@x>")
    assert ledger.store.get("k").entry == decided  # type: ignore[union-attr]


# -- expiry ------------------------------------------------------------------------------------------------


def test_a_deadline_that_is_running_is_not_touched(ledger: Ledger, clock: FakeClock) -> None:
    """To the microsecond; and a finished or unknown entry has none."""
    for make, seconds in ((claimed, 60), (sending, 30)):
        make(ledger)
        clock.forward(seconds - 0.000001)
        assert expire(ledger.store, "k") is None
        clock.forward(0.000001)
        assert expire(ledger.store, "k") is not None
        assert expire(ledger.store, "k") is None
    assert expire(ledger.store, "unknown") is None


def test_a_passed_send_deadline_is_a_doubt(ledger: Ledger, clock: FakeClock) -> None:
    """With deliveries and attempt; the next claim is held."""
    sending(ledger)
    clock.forward(30)
    entry = expire(ledger.store, "k")
    assert entry is not None
    assert (entry.status, entry.deliveries[0].status, entry.history[0].outcome) == (
        Status.IN_DOUBT,
        DeliveryStatus.IN_DOUBT,
        DeliveryStatus.IN_DOUBT,
    )
    assert isinstance(ledger.claim(TWO, POLICY), Held)


@pytest.mark.parametrize("options", [[], ["-O"]])
@pytest.mark.process
def test_a_status_that_may_not_follow_is_never_written(options: list[str]) -> None:
    """Nor under ``python -O``, which runs without assertions."""
    command = [sys.executable, *options, "-m", "tests.ledger.test_late_processes"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sent", "sent"]


def refused() -> str:
    """Return the status before and after a change from SENT to FAILED that somebody tries to write."""
    ledger = Ledger(MemoryStore())
    entry = sent(ledger)
    try:
        swap(ledger.store, replace(entry, status=Status.FAILED), entry)
    except TransitionForbidden:
        stored = ledger.store.get(entry.key)
        return f"{entry.status} {stored.entry.status if stored else None}"
    return "written"


if __name__ == "__main__":
    print(refused())
