"""What a provider tells of one of several hand-overs: it is about that copy, and says nothing of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Held, Reply
from celery_idempotent.ledger.provider_offers import Offer
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.testing import FakeClock, hold
from tests.ledger.provider_reports import (
    ANN,
    AT,
    BOB,
    LATER,
    LOST,
    ONE,
    POLICY,
    TWO,
    YES,
    begun,
    event,
    in_doubt,
    statuses,
    told,
)


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize("refusals", [1, 2])
def test_the_first_hand_over_is_proven_after_a_refused_second_offer(
    ledger: Ledger, attempt: int, refusals: int
) -> None:
    """An offer that was refused before there was anything to write ahead does not hide the one in doubt."""
    entry = in_doubt(ledger, ANN, BOB, offer=Offer("key", 3600, "sealed"))
    no = Reply(DeliveryStatus.DEFERRED, 450, "later")
    for _ in range(refusals):
        entry = hold(ledger, entry, ONE, POLICY).settle({ANN: no, BOB: no}, "<m>")
    assert statuses(entry) == [DeliveryStatus.IN_DOUBT] * 2
    if attempt > 1:
        for _ in range(3 - refusals):
            entry = hold(ledger, entry, ONE, POLICY).begin_again()
            entry = hold(ledger, entry, ONE, POLICY).settle({ANN: LOST, BOB: LOST}, "<m>")
    entry = told(ledger, event(attempt=attempt, whole=True))
    assert (entry.status, statuses(entry)) == (Status.SENT, [DeliveryStatus.ACCEPTED] * 2)


RESEND = replace(POLICY, in_doubt="resend")


def resent(ledger: Ledger) -> Entry:
    """Return an entry whose second copy is under way, as nobody knows what became of the first."""
    in_doubt(ledger)
    outcome = ledger.claim(ONE, RESEND)
    assert isinstance(outcome, Acquired)
    return hold(ledger, outcome.entry, ONE, RESEND).begin([ANN], "<m>")


@pytest.mark.parametrize("kind", ["rejected", "failed"])
@pytest.mark.parametrize("before", [True, False], ids=["before the reply is lost", "after it"])
def test_a_rejection_of_an_earlier_copy_says_nothing_about_the_next(
    ledger: Ledger, kind: str, before: bool
) -> None:
    """P1: the second may have been delivered, so it stays in doubt; only a word about itself refuses it."""
    entry = resent(ledger)
    if before:
        told(ledger, event(kind, attempt=1))
    entry = hold(ledger, entry, ONE, RESEND).settle({ANN: LOST}, "<m>")
    if not before:
        entry = told(ledger, event(kind, attempt=1))
    assert (entry.status, statuses(entry)) == (Status.IN_DOUBT, [DeliveryStatus.IN_DOUBT])
    entry = told(ledger, event(kind, attempt=2))
    assert (entry.status, statuses(entry)) == (Status.FAILED, [DeliveryStatus.REFUSED])


@pytest.mark.parametrize("before", [True, False], ids=["before the reply", "after it"])
def test_a_rejection_of_an_earlier_copy_does_not_end_the_retries_of_the_next(
    ledger: Ledger, before: bool
) -> None:
    """Whichever of them comes first, a "later" about the newest copy is followed."""
    entry = resent(ledger)
    if before:
        told(ledger, event("rejected", attempt=1))
    entry = hold(ledger, entry, ONE, RESEND).settle({ANN: LATER}, "<m>")
    if not before:
        entry = told(ledger, event("rejected", attempt=1))
    assert statuses(entry) == [DeliveryStatus.DEFERRED]


def test_an_acceptance_of_an_earlier_copy_still_counts(ledger: Ledger) -> None:
    """P2: the recipient has it from the first, whatever became of the second."""
    entry = resent(ledger)
    told(ledger, event("delivered", attempt=1))
    entry = hold(ledger, entry, ONE, RESEND).settle({ANN: LOST}, "<m>")
    assert statuses(entry) == [DeliveryStatus.ACCEPTED]


def test_a_rejection_of_an_earlier_copy_is_kept_beside_what_is_known(ledger: Ledger) -> None:
    """It disturbs nothing there, and operators see it."""
    hold(ledger, resent(ledger), ONE, RESEND).settle({ANN: YES}, "<m>")
    entry = told(ledger, event("rejected", attempt=1))
    assert statuses(entry) == [DeliveryStatus.ACCEPTED]
    assert entry.deliveries[0].events == (("rejected", AT),)


@pytest.mark.parametrize("number", [1, 2])
def test_a_rejection_under_the_same_key_settles_every_offer(ledger: Ledger, number: int) -> None:
    """All of them are one mail to the provider, by whichever number it carries."""
    entry = in_doubt(ledger, offer=Offer("key", 3600, "sealed"))
    entry = hold(ledger, entry, ONE, POLICY).begin_again()
    hold(ledger, entry, ONE, POLICY).settle({ANN: LOST}, "<m>")
    assert statuses(told(ledger, event("rejected", attempt=number))) == [DeliveryStatus.REFUSED]


@pytest.mark.parametrize("meanwhile", [False, True], ids=["told before", "told as it begins"])
@pytest.mark.parametrize("crash", [False, True])
def test_a_failure_is_forgotten_with_the_next_hand_over(
    ledger: Ledger, clock: FakeClock, meanwhile: bool, crash: bool
) -> None:
    """P1: it was about the one before; if this one's reply is lost, that is a doubt."""
    entry = hold(ledger, begun(ledger), ONE, POLICY).settle({ANN: LATER}, "<m>")
    heard = told(ledger, event("failed"))
    entry = hold(ledger, entry if meanwhile else heard, ONE, POLICY).begin([ANN], "<m>")
    assert entry.deliveries[0].events == ()
    if crash:
        clock.forward(31)
        assert isinstance(ledger.claim(TWO, POLICY), Held)
    else:
        entry = hold(ledger, entry, ONE, POLICY).settle({ANN: LOST}, "<m>")
        assert statuses(entry) == [DeliveryStatus.IN_DOUBT]


def test_an_event_about_an_earlier_hand_over_proves_that_one_alone(ledger: Ledger) -> None:
    """Ann had it from the first attempt; that says nothing about Bob's, whose reply was lost."""
    entry = hold(ledger, begun(ledger, ANN, BOB), ONE, POLICY).settle(
        {ANN: YES, BOB: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>"
    )
    entry = hold(ledger, entry, ONE, POLICY).begin([BOB], "<m>")
    hold(ledger, entry, ONE, POLICY).settle({BOB: LOST}, "<m>")
    for one in (
        event(whole=True, attempt=1),
        event(whole=True, attempt=2),
        event(who=None, whole=True, attempt=1),
    ):
        assert told(ledger, one).deliveries[1].status is DeliveryStatus.IN_DOUBT
    assert told(ledger, event(who=None, whole=True, attempt=2)).status is Status.SENT


def test_what_was_offered_again_still_carries_its_first_number(ledger: Ledger) -> None:
    """Frozen content names the hand-over that it was made for."""
    entry = in_doubt(ledger, ANN, BOB, offer=Offer("key", 3600, "sealed"))
    entry = hold(ledger, entry, ONE, POLICY).begin_again()
    hold(ledger, entry, ONE, POLICY).settle({ANN: LOST, BOB: LOST}, "<m>")
    entry = told(ledger, event(who=None, whole=True, attempt=1))
    assert (entry.status, entry.sealed, entry.provider_key) == (Status.SENT, "", "")
