"""Doubt about a hand-over that the provider recognises: offered again inside its window, held after it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from celery_idempotent.exceptions import ClaimLost, DeliveryInDoubt
from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Held, Reply
from celery_idempotent.ledger.policy import Claimant, Policy, Verdict
from celery_idempotent.ledger.provider_offers import Offer
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.testing import FakeClock, hold
from tests.ledger.provider_reports import ANN, BOB, LOST, ONE, POLICY, TWO, YES, in_doubt

OFFER = Offer("key-1", 3600, "sealed")


def acquired(ledger: Ledger, claimant: Claimant = ONE, policy: Policy = POLICY) -> Entry:
    outcome = ledger.claim(claimant, policy)
    assert isinstance(outcome, Acquired), outcome
    return outcome.entry


def offered(ledger: Ledger, *targets: Any) -> Entry:
    """Return an entry whose hand-over to ``targets``, with a key, got no reply."""
    return in_doubt(ledger, *targets, offer=OFFER)


def test_inside_the_window_a_claim_may_offer_it_again(ledger: Ledger, clock: FakeClock) -> None:
    """The doubt is not held: whoever asks gets the claim, with the key and the content of the first time."""
    offered(ledger)
    clock.forward(3000)
    entry = acquired(ledger, TWO)
    assert (entry.provider_key, entry.sealed, entry.offers) == ("key-1", "sealed", 1)
    assert entry.status is Status.SENDING, "the provider may have the mail: nobody may cancel or release it"
    assert entry.deliveries[0].status is DeliveryStatus.IN_DOUBT


def test_after_the_window_it_is_held_and_the_content_is_gone(ledger: Ledger, clock: FakeClock) -> None:
    """Never after: the provider would take it for another mail. What nobody can use any more is erased."""
    offered(ledger)
    clock.forward(3600 - 29)  # the hand-over itself would end outside
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Held)
    assert (outcome.entry.sealed, outcome.entry.provider_key, outcome.entry.status) == ("", "", Status.IN_DOUBT)


def test_the_last_moment_counts(ledger: Ledger, clock: FakeClock) -> None:
    """A hand-over that ends exactly with the window is inside it."""
    offered(ledger)
    clock.forward(3600 - 30)
    assert acquired(ledger, TWO).provider_key == "key-1"


def test_the_window_counts_from_the_first_hand_over(ledger: Ledger, clock: FakeClock) -> None:
    """Offering again does not lengthen it."""
    offered(ledger)
    clock.forward(1800)
    entry = hold(ledger, acquired(ledger), ONE, POLICY).begin_again()
    assert entry.recognised_until == clock.now + timedelta(seconds=1800)
    hold(ledger, entry, ONE, POLICY).settle({ANN: LOST}, "<m>")
    clock.forward(1790)
    assert isinstance(ledger.claim(TWO, POLICY), Held)


def test_a_body_that_takes_too_long_does_not_offer_it_after_the_window(
    ledger: Ledger, clock: FakeClock
) -> None:
    """The window is looked at once more in the write-ahead itself."""
    offered(ledger)
    clock.forward(3500)
    entry = acquired(ledger)
    clock.forward(71)
    with pytest.raises(DeliveryInDoubt):
        hold(ledger, entry, ONE, POLICY).begin_again()
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Held)
    assert outcome.entry.deliveries[0].status is DeliveryStatus.IN_DOUBT


def test_an_acceptance_of_the_same_key_settles_the_doubt(ledger: Ledger) -> None:
    """Sent, and nothing of the content is left."""
    entry = offered(ledger)
    entry = hold(ledger, hold(ledger, entry, ONE, POLICY).begin_again(), ONE, POLICY).settle({ANN: YES}, "<m>")
    assert entry.status is Status.CLAIMED
    assert entry.deliveries[0].status is DeliveryStatus.ACCEPTED
    assert (entry.provider_key, entry.recognised_until, entry.offers, entry.sealed) == ("", None, 0, "")
    assert hold(ledger, entry).complete("done").status is Status.SENT


@pytest.mark.parametrize("status", [DeliveryStatus.DEFERRED, DeliveryStatus.REFUSED, DeliveryStatus.IN_DOUBT])
@pytest.mark.parametrize("before", [True, False], ids=["refused before the payload", "refused after it"])
def test_a_refusal_of_the_second_offer_says_nothing_about_the_first(
    ledger: Ledger, status: DeliveryStatus, before: bool
) -> None:
    """P1: a rate limit now is no proof that the first offer was not taken. It may be tried again."""
    entry = offered(ledger)
    if not before:
        entry = hold(ledger, entry, ONE, POLICY).begin_again()
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: Reply(status, 429)}, "<m>")
    assert entry.status is Status.IN_DOUBT
    assert entry.deliveries[0].status is DeliveryStatus.IN_DOUBT
    assert entry.sealed == "sealed"
    acquired(ledger, TWO)


def test_accepted_for_some_holds_the_others(ledger: Ledger) -> None:
    """P1, P2: the key stands for those accepted now; under it the others would never get anything."""
    entry = hold(ledger, offered(ledger, ANN, BOB), ONE, POLICY).begin_again()
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: YES, BOB: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>")
    assert entry.status is Status.IN_DOUBT
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT]
    assert isinstance(ledger.claim(TWO, POLICY), Held)


@pytest.mark.parametrize("said", [YES, Reply(DeliveryStatus.DEFERRED, 450)], ids=["taken", "refused"])
def test_whom_a_second_offer_leaves_out_is_in_doubt_as_before(ledger: Ledger, said: Reply) -> None:
    """P1, P2: a server's limit left Bob out. He may have it from the first offer, and the reply is not his."""
    entry = hold(ledger, offered(ledger, ANN, BOB), ONE, POLICY).begin_again()
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: said}, "<m>")
    assert (entry.status, entry.deliveries[1].status) == (Status.IN_DOUBT, DeliveryStatus.IN_DOUBT)
    assert entry.deliveries[1].detail == LOST.detail
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Held if said is YES else Acquired), "accepted: the key stands for Ann alone"


@pytest.mark.parametrize("crash", [False, True], ids=["lost", "crash"])
def test_whom_an_offer_left_out_is_not_settled_by_a_later_one(
    ledger: Ledger, clock: FakeClock, crash: bool
) -> None:
    """P2: the provider may have the second offer alone. It says yes to the third, and takes nothing of it."""
    entry = hold(ledger, offered(ledger, ANN, BOB), ONE, POLICY).begin_again([ANN])
    if not crash:
        hold(ledger, entry, ONE, POLICY).settle({BOB: Reply(DeliveryStatus.DEFERRED, 450), ANN: LOST}, "<m>")
    clock.forward(31)
    entry = hold(ledger, acquired(ledger), ONE, POLICY).begin_again([ANN, BOB])
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: YES, BOB: YES}, "<m>")
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT]
    assert isinstance(ledger.claim(TWO, POLICY), Held)


@pytest.mark.parametrize("again", [False, True], ids=["first offer", "second offer"])
def test_a_crash_in_the_hand_over_is_offered_again(ledger: Ledger, clock: FakeClock, again: bool) -> None:
    """What was written ahead is all that is needed; everyone waits for the send deadline before."""
    entry = acquired(ledger)
    entry = hold(ledger, entry, ONE, POLICY).begin([ANN], "<m>", OFFER)
    if again:
        entry = hold(ledger, entry, ONE, POLICY).settle({ANN: LOST}, "<m>")
        hold(ledger, entry, ONE, POLICY).begin_again()
    assert isinstance(ledger.claim(ONE, POLICY), Busy)
    clock.forward(31)
    assert acquired(ledger, TWO).sealed == "sealed"


def test_a_crash_between_claim_and_offer_leaves_the_doubt(ledger: Ledger, clock: FakeClock) -> None:
    """The claim that was to offer it again is not taken for one with nothing in flight."""
    offered(ledger)
    acquired(ledger, TWO)
    clock.forward(61)
    assert acquired(ledger).provider_key == "key-1"
    clock.forward(3600)
    outcome = ledger.claim(ONE, POLICY)
    assert isinstance(outcome, Held)
    assert outcome.entry.status is Status.IN_DOUBT


def test_a_claim_to_offer_it_again_does_not_shorten_the_send_deadline(ledger: Ledger, clock: FakeClock) -> None:
    """P1: the server may still be at the first offer, so until then nobody knows that it was not sent."""
    policy = replace(POLICY, lease=5, send_timeout=300, in_doubt=lambda entry: Verdict.NOT_SENT)
    entry = hold(ledger, acquired(ledger, policy=policy), ONE, policy).begin([ANN], "<m>", OFFER)
    until = entry.deadline
    hold(ledger, entry, ONE, policy).settle({ANN: LOST}, "<m>")
    clock.forward(10)
    entry = hold(ledger, hold(ledger, acquired(ledger, policy=policy)).fail("x")).close_offer()
    assert (entry.status, entry.deadline) == (Status.IN_DOUBT, until)
    clock.forward(289)
    assert isinstance(ledger.claim(TWO, policy), Busy)


@pytest.mark.parametrize("end", ["release", "fail", "complete"])
def test_a_body_that_does_not_offer_it_leaves_the_doubt(ledger: Ledger, end: str) -> None:
    """P2: a body that takes another way this time does not make it sent, free or failed."""
    offered(ledger)
    entry = acquired(ledger, TWO)
    ended = {
        "release": lambda: hold(ledger, entry, policy=POLICY).release(retry_in=5.0),
        "fail": lambda: hold(ledger, entry).fail("ValueError"),
        "complete": lambda: hold(ledger, entry).complete("done"),
    }[end]()
    assert ended.status is Status.IN_DOUBT
    assert ended.sealed == "sealed"
    acquired(ledger, TWO)


def test_another_message_meanwhile_makes_the_doubt_one_to_hold(ledger: Ledger) -> None:
    """An entry has one key: of two messages in doubt nobody could tell which one it stands for."""
    offered(ledger)
    other = ("other", ANN[1])
    entry = hold(ledger, acquired(ledger, TWO), TWO, POLICY).begin([other], "<n>", Offer("key-2", 3600))
    entry = hold(ledger, entry, TWO, POLICY).settle({other: YES}, "<n>")
    assert entry.status is Status.IN_DOUBT
    assert isinstance(ledger.claim(ONE, POLICY), Held)


def test_a_crash_in_another_message_holds_both(ledger: Ledger, clock: FakeClock) -> None:
    """The key of the first never stands for what was handed over without one."""
    offered(ledger)
    hold(ledger, acquired(ledger, TWO), TWO, POLICY).begin([("other", ANN[1])], "<n>")
    clock.forward(31)
    assert isinstance(ledger.claim(ONE, POLICY), Held)


def test_the_later_of_two_that_offer_it_again_is_fenced_off(ledger: Ledger) -> None:
    """One claim, one offer at a time."""
    offered(ledger)
    first = acquired(ledger)
    assert isinstance(ledger.claim(TWO, POLICY), Busy)
    hold(ledger, hold(ledger, first, ONE, POLICY).begin_again(), ONE, POLICY).settle({ANN: YES}, "<m>")
    with pytest.raises(ClaimLost):
        hold(ledger, first, ONE, POLICY).begin_again()


def test_without_a_key_it_is_held_as_ever(ledger: Ledger) -> None:
    """A provider that does not deduplicate is never offered a doubtful mail again."""
    in_doubt(ledger)
    assert isinstance(ledger.claim(TWO, POLICY), Held)


def test_a_definite_refusal_erases_the_content_at_once(ledger: Ledger) -> None:
    """The next attempt is a hand-over of its own, with a key and content of its own."""
    entry = hold(ledger, acquired(ledger), ONE, POLICY).begin([ANN], "<m>", OFFER)
    entry = hold(ledger, entry, ONE, POLICY).settle({ANN: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>")
    assert (entry.status, entry.sealed, entry.provider_key) == (Status.CLAIMED, "", "")


def test_a_verifier_is_asked_first_and_its_yes_counts(ledger: Ledger, clock: FakeClock) -> None:
    """Who knows need not ask the provider again; a "not sent" is offered under the same key all the same."""
    offered(ledger)
    not_sent = replace(POLICY, in_doubt=lambda entry: Verdict.NOT_SENT)
    assert acquired(ledger, TWO, not_sent).provider_key == "key-1"
    clock.forward(61)
    sent = replace(POLICY, in_doubt=lambda entry: Verdict.SENT)
    entry = acquired(ledger, TWO, sent)
    assert entry.deliveries[0].status is DeliveryStatus.ACCEPTED
    assert entry.sealed == ""


def test_resend_uses_the_key_while_it_counts(ledger: Ledger, clock: FakeClock) -> None:
    """The second copy that "resend" puts up with is not even made inside the window."""
    resend = replace(POLICY, in_doubt="resend")
    offered(ledger)
    assert acquired(ledger, TWO, resend).provider_key == "key-1"
    clock.forward(3600)
    entry = acquired(ledger, TWO, resend)
    assert entry.deliveries[0].status is DeliveryStatus.DEFERRED
    assert entry.provider_key == ""


@pytest.mark.parametrize(
    "claimed", [True, False], ids=["by the run that was to offer it", "by the one in doubt"]
)
def test_a_key_that_cannot_be_offered_is_given_up(ledger: Ledger, claimed: bool) -> None:
    """It stays in doubt, and from the next claim on the rules decide as if there had been no key."""
    entry = before = offered(ledger)
    if claimed:
        entry = before = acquired(ledger)
    entry = hold(ledger, entry).close_offer()
    assert (entry.status, entry.deadline, entry.offers) == (Status.IN_DOUBT, before.deadline, 0)
    assert (entry.provider_key, entry.sealed, entry.recognised_until) == ("", "", None)
    assert entry.deliveries[0].status is DeliveryStatus.IN_DOUBT
    assert isinstance(ledger.claim(TWO, POLICY), Held)
    entry = acquired(ledger, TWO, replace(POLICY, in_doubt="resend"))
    assert (entry.status, entry.deliveries[0].status) == (Status.CLAIMED, DeliveryStatus.DEFERRED)


def test_who_has_lost_the_claim_gives_up_no_key(ledger: Ledger, clock: FakeClock) -> None:
    """P1: another run is about to offer it under that very key."""
    offered(ledger)
    late = acquired(ledger)
    clock.forward(61)
    entry = acquired(ledger, TWO)
    with pytest.raises(ClaimLost) as lost:
        hold(ledger, late).close_offer()
    assert lost.value.owner == "task-2"
    assert hold(ledger, entry, TWO, POLICY).begin_again().provider_key == "key-1"


def test_an_opaque_body_never_offers_again(ledger: Ledger) -> None:
    """It could not say what it sends; the entry is from before mail went around the ledger."""
    offered(ledger)
    assert isinstance(ledger.claim(TWO, replace(POLICY, opaque=True)), Held)
