"""What was withdrawn stays so for its window, and without one for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_idempotent.exceptions import ClaimLost
from celery_idempotent.ledger.audit import MAX_AUDIT
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import After, Entry
from celery_idempotent.ledger.erasure import FORGOTTEN
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Duplicate, Reply
from celery_idempotent.ledger.policy import Claimant
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.testing import FakeClock, hold, race
from tests.ledger.entry_stages import ACCEPTED, ANN, ONE, POLICY, TARGET, TWO, claimed, sent

DAY = 86_400.0
DAILY = replace(POLICY, window=DAY)
THREE, FOUR = (replace(ONE, task_id=f"task-{n}") for n in (3, 4))


@pytest.fixture(params=["mail", "opaque"])
def daily(request: Any) -> Any:
    """A reminder once a day, by mail and by other means."""
    return replace(DAILY, opaque=request.param == "opaque")


def cancelled(ledger: Ledger, operator: Operator, policy: Any = DAILY) -> Any:
    return operator.cancel(hold(ledger, claimed(ledger, ONE, policy), policy=policy).release())


def test_a_cancelled_day_ends_with_its_window(
    ledger: Ledger, clock: FakeClock, operator: Operator, daily: Any
) -> None:
    """P2: to the microsecond, counted from the cancellation; the next day's call is a new generation."""
    clock.forward(5)
    cancelled(ledger, operator, daily)
    clock.forward(DAY - 0.000001)
    assert isinstance(ledger.claim(TWO, daily), Duplicate)
    clock.forward(0.000001)
    entry = claimed(ledger, THREE, daily)
    assert (entry.generation, entry.owner, entry.deliveries) == (2, "task-3", ())


def test_who_took_part_in_a_cancelled_generation_never_sends(
    ledger: Ledger, clock: FakeClock, operator: Operator, daily: Any
) -> None:
    """P1: neither the task that was withdrawn nor a duplicate of it, in its own window or a later one."""
    cancelled(ledger, operator, daily)
    assert isinstance(ledger.claim(TWO, daily), Duplicate)
    clock.forward(DAY)
    for old in (ONE, TWO):
        assert isinstance(ledger.claim(old, daily), Duplicate)
    entry = hold(ledger, claimed(ledger, THREE, daily)).complete(None)
    assert entry.generation == 2
    for old in (ONE, TWO, THREE):
        assert isinstance(ledger.claim(old, daily), Duplicate)


def test_without_a_window_it_is_for_ever(ledger: Ledger, clock: FakeClock, operator: Operator) -> None:
    """Nor does a rule change it, which is asked about what is sent or given up alone."""
    ruled = replace(POLICY, allow_send=lambda *_: True)
    version = cancelled(ledger, operator, POLICY).version
    clock.forward(10 * 365 * DAY)
    for claimant, policy in ((TWO, POLICY), (THREE, ruled)):
        assert isinstance(ledger.claim(claimant, policy), Duplicate)
    assert ledger.store.get("k").entry.version == version  # type: ignore[union-attr]


def test_a_cancellation_that_nobody_remembers_stays(ledger: Ledger, clock: FakeClock) -> None:
    """Where no decision says when it was, nothing says that it is over."""
    entry = claimed(ledger, ONE, DAILY)
    ledger.store.swap(replace(entry, status=Status.CANCELLED, deadline=None), entry.version)
    clock.forward(10 * DAY)
    assert isinstance(ledger.claim(TWO, DAILY), Duplicate)


def test_it_counts_from_the_cancellation_not_from_an_earlier_acceptance(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """Some had got it, the rest was withdrawn half a day later: a day from then on."""
    entry = hold(ledger, claimed(ledger, ONE, DAILY), ONE, DAILY).begin([TARGET], "<m@x>")
    operator.cancel(
        hold(ledger, hold(ledger, entry, ONE, DAILY).settle(ACCEPTED, "<m@x>"), policy=DAILY).release()
    )
    clock.forward(DAY / 2)
    assert isinstance(ledger.claim(TWO, DAILY), Duplicate)
    clock.forward(DAY / 2)
    assert isinstance(ledger.claim(THREE, DAILY), Acquired)


def test_the_cancellation_of_this_generation_counts(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """Not that of an earlier one, nor what was decided since: to forget somebody does not begin it anew."""
    cancelled(ledger, operator)
    clock.forward(DAY)
    again = operator.cancel(hold(ledger, claimed(ledger, TWO, DAILY), policy=DAILY).release())
    clock.forward(DAY - 1)
    operator.forget(again, ANN.digest, [FORGOTTEN])
    assert isinstance(ledger.claim(THREE, DAILY), Duplicate)
    clock.forward(1)
    assert claimed(ledger, FOUR, DAILY).generation == 3


def assert_it_ends_in(seconds: float, ledger: Ledger, clock: FakeClock) -> None:
    """Until then nobody gets it, after that everybody does anew."""
    assert isinstance(ledger.claim(TWO, DAILY), Duplicate)
    clock.forward(seconds)
    assert claimed(ledger, THREE, DAILY).generation == 2


def test_a_cancellation_ends_however_much_has_been_decided_since(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """P2: of a list, a hundred want to be forgotten, and the audit has no room for when it was withdrawn."""
    entry = cancelled(ledger, operator)
    for _ in range(MAX_AUDIT):
        entry = operator.forget(entry, ANN.digest, [FORGOTTEN])
    assert_it_ends_in(DAY, ledger, clock)


def test_a_resend_that_was_taken_back_does_not_lengthen_it(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """P2: its message could not be published, and everything is as it was."""
    entry = cancelled(ledger, operator)
    clock.forward(DAY / 2)
    operator.take_back(operator.resend(entry, "resent", 60), entry)
    assert_it_ends_in(DAY / 2, ledger, clock)


def answered(ledger: Ledger, reply: Reply) -> Entry:
    """A hand-over, and what the mail server said."""
    entry = hold(ledger, claimed(ledger, ONE, DAILY), ONE, DAILY).begin([TARGET], "<m@x>")
    return hold(ledger, entry, ONE, DAILY).settle({TARGET: reply}, "<m@x>")


def test_what_was_given_up_and_then_forgotten_is_withdrawn_until_its_window_ends(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """`forget` cancels it: within the window nobody gets it a second time, after it everybody does anew."""
    entry = answered(ledger, Reply(DeliveryStatus.REFUSED, 550))
    operator.forget(hold(ledger, entry).fail("x"), ANN.digest, [FORGOTTEN])
    assert_it_ends_in(DAY, ledger, clock)


def test_an_acceptance_that_is_proven_after_the_cancellation_counts(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """P1: a webhook tells that it had gone out after all: a window from then on."""
    entry = answered(ledger, Reply(DeliveryStatus.DEFERRED, 451))
    entry = operator.cancel(hold(ledger, entry, policy=DAILY).release())
    clock.forward(10)
    ledger.store.swap(replace(entry, sent_at=After()), entry.version)
    clock.forward(DAY - 1)
    assert isinstance(ledger.claim(TWO, DAILY), Duplicate)
    clock.forward(1)
    assert isinstance(ledger.claim(THREE, DAILY), Acquired)


def test_one_wins_when_it_ends(ledger: Ledger, clock: FakeClock, operator: Operator) -> None:
    """P1: of many that call after the window, one sends."""
    cancelled(ledger, operator)
    clock.forward(DAY)
    outcomes = race(lambda n: ledger.claim(Claimant("k", "mail", f"racer-{n}"), DAILY))
    assert sum(isinstance(outcome, Acquired) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Busy) for outcome in outcomes) == len(outcomes) - 1


def test_a_worker_that_wakes_up_late_has_lost_its_claim(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """Withdrawn while it was paused, and the next day's is out: it sends nothing."""
    old = claimed(ledger, ONE, DAILY)
    clock.forward(61)
    operator.cancel(old)
    clock.forward(DAY)
    sent(ledger, TWO, DAILY)
    with pytest.raises(ClaimLost):
        hold(ledger, old, ONE, DAILY).begin([TARGET], "<m@x>")
