"""What a provider tells while a run is at it, or has died at it: the run goes on, and nothing is lost."""

from __future__ import annotations

import pytest

from celery_idempotent.exceptions import ClaimLost
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Reply
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
    statuses,
    told,
)


@pytest.mark.parametrize(
    ("kind", "status"), [("failed", DeliveryStatus.DEFERRED), ("rejected", DeliveryStatus.REFUSED)]
)
@pytest.mark.parametrize("before", [True, False], ids=["before the reply", "after it"])
def test_what_failed_is_tried_again_in_whichever_order_it_is_told(
    ledger: Ledger, kind: str, status: DeliveryStatus, before: bool
) -> None:
    """The API's answer and the event say the same of one hand-over; a rejection says more."""
    entry = begun(ledger)
    if before:
        told(ledger, event(kind))
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: LATER}, "<m>")
    if not before:
        entry = told(ledger, event(kind))
    assert statuses(entry) == [status]
    assert entry.deliveries[0].events == ((kind, AT),)


def test_an_event_before_the_reply_does_not_disturb_the_run(ledger: Ledger) -> None:
    """A webhook faster than our own write: the run goes on, and both are on record."""
    entry = begun(ledger)
    assert told(ledger, event()).status is Status.SENDING
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: YES}, "<m>")
    assert told(ledger, event("complained")).status is Status.CLAIMED
    entry = hold(ledger, entry, ONE, POLICY).begin([BOB], "<m>")
    assert told(ledger, event("delivered", BOB)).attempts == 2
    entry = hold(ledger, entry, ONE, POLICY).settle({BOB: YES}, "<m>")
    entry = hold(ledger, entry).complete("done")
    assert entry.status is Status.SENT
    assert [[kind for kind, _ in d.events] for d in entry.deliveries] == [
        ["complained", "delivered"],
        ["delivered"],
    ]


def test_an_event_before_a_reply_that_is_lost_is_its_proof(ledger: Ledger) -> None:
    """The run learns from its own write that there is no doubt, and goes on."""
    entry = begun(ledger, ANN, BOB)
    told(ledger, event(whole=True))
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: LOST, BOB: LOST}, "<m>")
    assert (entry.status, statuses(entry)) == (Status.CLAIMED, [DeliveryStatus.ACCEPTED] * 2)
    assert hold(ledger, entry).complete("done").status is Status.SENT


def test_an_event_and_a_refusal_that_contradicts_it(ledger: Ledger) -> None:
    """P1: the provider has delivered it, so a "come back later" for it is not followed."""
    entry = begun(ledger)
    told(ledger, event())
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>")
    assert statuses(entry) == [DeliveryStatus.ACCEPTED]


def test_events_stay_when_the_outcome_is_written(ledger: Ledger) -> None:
    """By a run that has read the entry since, too."""
    begun(ledger)
    entry = hold(ledger, told(ledger, event("bounced")), ONE, POLICY).settle({ANN: YES}, "<m>")
    assert entry.deliveries[0].events == (("bounced", AT),)


def test_an_event_and_then_a_crash(ledger: Ledger, clock: FakeClock) -> None:
    """P1, P2: proven before the deadline, the mail is not in doubt after it; the body may be finished."""
    begun(ledger)
    told(ledger, event())
    clock.forward(31)
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Acquired)
    assert statuses(outcome.entry) == [DeliveryStatus.ACCEPTED]


def test_a_crash_and_then_an_event(ledger: Ledger, clock: FakeClock) -> None:
    """Nobody has looked at the entry since its deadline passed; the event settles it all the same."""
    begun(ledger)
    clock.forward(31)
    assert told(ledger, event()).status is Status.SENT


def test_an_event_takes_no_claim_away(ledger: Ledger) -> None:
    """Who has lost the claim to another task does not get it back by an event."""
    entry = begun(ledger)
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>")
    hold(ledger, entry, policy=POLICY).release()
    assert isinstance(ledger.claim(TWO, POLICY), Acquired)
    told(ledger, event("deferred"))
    with pytest.raises(ClaimLost):
        hold(ledger, entry, ONE, POLICY).begin([ANN], "<m>")


def test_a_proof_for_a_deferred_recipient_keeps_it_from_being_offered_again(ledger: Ledger) -> None:
    """P1: the provider has it, whatever its reply was taken for, or an operator said."""
    entry = hold(ledger, begun(ledger), ONE, POLICY).settle({ANN: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>")
    hold(ledger, entry, policy=POLICY).release()
    entry = told(ledger, event("delivered"))
    assert (entry.status, statuses(entry)) == (Status.RELEASED, [DeliveryStatus.ACCEPTED])


def test_a_confirmation_that_was_lost_and_an_event_since(ledger: Ledger) -> None:
    """The run recognises its own write although something was told about it meanwhile."""
    entry = begun(ledger)
    stored = hold(ledger, entry, ONE, POLICY).settle({ANN: YES}, "<m>")
    told(ledger, event())
    again = hold(ledger, entry, ONE, POLICY).settle({ANN: YES}, "<m>")
    assert again.version == stored.version + 1
    assert again.deliveries[0].events
