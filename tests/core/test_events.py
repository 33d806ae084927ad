"""What a provider tells later: kept beside the delivery, and the end of a doubt."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import permutations
from typing import Any

import pytest

from celery_idempotent.core.entry import Entry, Recipient
from celery_idempotent.core.errors import ClaimLost
from celery_idempotent.core.events import Event, mark
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.offers import Offer
from celery_idempotent.core.outcomes import Acquired, Asker, Duplicate, Held, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus, Status
from celery_idempotent.stores.memory import MemoryStore
from tests.core.test_ledger import Clock

ONE = Asker("k", "mail", "task-1")
TWO = replace(ONE, task_id="task-2")
POLICY = Policy(lease=60, send_timeout=30)
ANN, BOB = ("0", Recipient("a", "a***")), ("0", Recipient("b", "b***"))
AT = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
YES, LOST = Reply(DeliveryStatus.ACCEPTED, 202), Reply(DeliveryStatus.IN_DOUBT, None, "no reply")


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    """An empty ledger on it."""
    return Ledger(MemoryStore(clock))


def event(kind: str = "delivered", who: Any = ANN, **more: Any) -> Event:
    given = {
        "at": AT,
        "generation": 1,
        "message": mark("<m>", Clock().now),
        "attempt": 1,
        "recipient": who[1].digest if who else "",
    }
    given["source"] = "Mailgun"
    return Event(kind, **{**given, **more})


def begun(ledger: Ledger, *targets: Any, offer: Offer | None = None) -> Entry:
    outcome = ledger.claim(ONE, POLICY)
    assert isinstance(outcome, Acquired)
    return ledger.begin(outcome.entry, targets or [ANN], "<m>", ONE, POLICY, offer)


def in_doubt(ledger: Ledger, *targets: Any, offer: Offer | None = None) -> Entry:
    entry = begun(ledger, *targets, offer=offer)
    return ledger.settle(entry, dict.fromkeys(targets or [ANN], LOST), "<m>", ONE, POLICY)


def told(ledger: Ledger, *told: Event) -> Entry:
    entry = None
    for one in told:
        entry = ledger.hear("k", one)
    assert entry is not None
    return entry


def statuses(entry: Entry) -> list[DeliveryStatus]:
    return [delivery.status for delivery in entry.deliveries]


@pytest.mark.parametrize("kind", ["accepted", "delivered", "deferred", "bounced", "complained"])
def test_an_event_proves_that_a_doubtful_mail_was_taken(ledger: Ledger, kind: str) -> None:
    """Whatever became of it then, the provider has it: in doubt becomes sent, and is never offered again."""
    in_doubt(ledger)
    entry = told(ledger, event(kind))
    assert (entry.status, statuses(entry)) == (Status.SENT, [DeliveryStatus.ACCEPTED])
    assert entry.deliveries[0].events == ((kind, AT),)
    assert [(one.action, one.actor, one.found) for one in entry.audit] == [
        ("proven: sent", "Mailgun", Status.IN_DOUBT)
    ]
    assert isinstance(ledger.claim(TWO, POLICY), Duplicate)


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize("refusals", [1, 2])
def test_the_first_hand_over_is_proven_after_a_refused_second_offer(
    ledger: Ledger, attempt: int, refusals: int
) -> None:
    """An offer that was refused before there was anything to write ahead does not hide the one in doubt."""
    entry = in_doubt(ledger, ANN, BOB, offer=Offer("key", 3600, "sealed"))
    no = Reply(DeliveryStatus.DEFERRED, 450, "later")
    for _ in range(refusals):
        entry = ledger.settle(entry, {ANN: no, BOB: no}, "<m>", ONE, POLICY)
    assert statuses(entry) == [DeliveryStatus.IN_DOUBT] * 2
    if attempt > 1:
        for _ in range(3 - refusals):
            entry = ledger.begin_again(entry, ONE, POLICY)
            entry = ledger.settle(entry, {ANN: LOST, BOB: LOST}, "<m>", ONE, POLICY)
    entry = told(ledger, event(attempt=attempt, whole=True))
    assert (entry.status, statuses(entry)) == (Status.SENT, [DeliveryStatus.ACCEPTED] * 2)


@pytest.mark.parametrize("kind", ["rejected", "failed"])
def test_a_rejection_settles_a_doubt_as_refused(ledger: Ledger, kind: str) -> None:
    """The provider took it and will not deliver it: not sent, and not to be offered again."""
    in_doubt(ledger)
    entry = told(ledger, event(kind))
    assert (entry.status, statuses(entry)) == (Status.FAILED, [DeliveryStatus.REFUSED])


RESEND = replace(POLICY, in_doubt="resend")
LATER = Reply(DeliveryStatus.DEFERRED, None, "failed")


def resent(ledger: Ledger) -> Entry:
    """Return an entry whose second copy is under way, as nobody knows what became of the first."""
    in_doubt(ledger)
    outcome = ledger.claim(ONE, RESEND)
    assert isinstance(outcome, Acquired)
    return ledger.begin(outcome.entry, [ANN], "<m>", ONE, RESEND)


@pytest.mark.parametrize("kind", ["rejected", "failed"])
@pytest.mark.parametrize("before", [True, False], ids=["before the reply is lost", "after it"])
def test_a_rejection_of_an_earlier_copy_says_nothing_about_the_next(
    ledger: Ledger, kind: str, before: bool
) -> None:
    """P1: the second may have been delivered, so it stays in doubt; only a word about itself refuses it."""
    entry = resent(ledger)
    if before:
        told(ledger, event(kind, attempt=1))
    entry = ledger.settle(entry, {ANN: LOST}, "<m>", ONE, RESEND)
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
    entry = ledger.settle(entry, {ANN: LATER}, "<m>", ONE, RESEND)
    if not before:
        entry = told(ledger, event("rejected", attempt=1))
    assert statuses(entry) == [DeliveryStatus.DEFERRED]


def test_an_acceptance_of_an_earlier_copy_still_counts(ledger: Ledger) -> None:
    """P2: the recipient has it from the first, whatever became of the second."""
    entry = resent(ledger)
    told(ledger, event("delivered", attempt=1))
    entry = ledger.settle(entry, {ANN: LOST}, "<m>", ONE, RESEND)
    assert statuses(entry) == [DeliveryStatus.ACCEPTED]


def test_a_rejection_of_an_earlier_copy_is_kept_beside_what_is_known(ledger: Ledger) -> None:
    """It disturbs nothing there, and operators see it."""
    ledger.settle(resent(ledger), {ANN: YES}, "<m>", ONE, RESEND)
    entry = told(ledger, event("rejected", attempt=1))
    assert statuses(entry) == [DeliveryStatus.ACCEPTED]
    assert entry.deliveries[0].events == (("rejected", AT),)


@pytest.mark.parametrize("number", [1, 2])
def test_a_rejection_under_the_same_key_settles_every_offer(ledger: Ledger, number: int) -> None:
    """All of them are one mail to the provider, by whichever number it carries."""
    entry = in_doubt(ledger, offer=Offer("key", 3600, "sealed"))
    entry = ledger.begin_again(entry, ONE, POLICY)
    ledger.settle(entry, {ANN: LOST}, "<m>", ONE, POLICY)
    assert statuses(told(ledger, event("rejected", attempt=number))) == [DeliveryStatus.REFUSED]


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
    entry = ledger.settle(entry, {ANN: LATER}, "<m>", ONE, POLICY)
    if not before:
        entry = told(ledger, event(kind))
    assert statuses(entry) == [status]
    assert entry.deliveries[0].events == ((kind, AT),)


@pytest.mark.parametrize("meanwhile", [False, True], ids=["told before", "told as it begins"])
@pytest.mark.parametrize("crash", [False, True])
def test_a_failure_is_forgotten_with_the_next_hand_over(
    ledger: Ledger, clock: Clock, meanwhile: bool, crash: bool
) -> None:
    """P1: it was about the one before; if this one's reply is lost, that is a doubt."""
    entry = ledger.settle(begun(ledger), {ANN: LATER}, "<m>", ONE, POLICY)
    heard = told(ledger, event("failed"))
    entry = ledger.begin(entry if meanwhile else heard, [ANN], "<m>", ONE, POLICY)
    assert entry.deliveries[0].events == ()
    if crash:
        clock.forward(31)
        assert isinstance(ledger.claim(TWO, POLICY), Held)
    else:
        entry = ledger.settle(entry, {ANN: LOST}, "<m>", ONE, POLICY)
        assert statuses(entry) == [DeliveryStatus.IN_DOUBT]


def test_a_bounce_does_not_undo_an_acceptance(ledger: Ledger) -> None:
    """It is kept beside, with its time."""
    entry = ledger.settle(begun(ledger), {ANN: YES}, "<m>", ONE, POLICY)
    ledger.complete(entry, "done")
    entry = told(ledger, event("delivered"), event("bounced", at=AT + timedelta(hours=1)), event("rejected"))
    assert (entry.status, statuses(entry), entry.result) == (Status.SENT, [DeliveryStatus.ACCEPTED], "done")
    assert [kind for kind, _ in entry.deliveries[0].events] == ["delivered", "rejected", "bounced"]


def test_the_order_of_events_does_not_matter(ledger: Ledger, clock: Clock) -> None:
    """Twice, late and in any order they come to the same."""
    happened = [
        event("accepted"),
        event("delivered", at=AT + timedelta(seconds=5)),
        event("complained", at=AT + timedelta(days=1)),
        event("delivered", at=AT + timedelta(seconds=9)),
    ]
    ends = set()
    for order in permutations(happened):
        fresh = Ledger(MemoryStore(clock))
        in_doubt(fresh)
        entry = told(fresh, *order, *order)
        ends.add((entry.status, entry.deliveries[0].events))
    kinds = ("accepted", AT), ("delivered", AT + timedelta(seconds=5)), ("complained", AT + timedelta(days=1))
    assert ends == {(Status.SENT, kinds)}


def test_an_event_that_is_known_writes_nothing(ledger: Ledger) -> None:
    """A replayed webhook costs a read."""
    in_doubt(ledger)
    before = told(ledger, event())
    assert told(ledger, event()).version == before.version


def test_an_unknown_key_and_other_generations_change_nothing(ledger: Ledger) -> None:
    """An event is about the generation that its message names, and no other."""
    assert ledger.hear("k", event()) is None
    before = in_doubt(ledger)
    for generation in (0, 2):
        assert told(ledger, event(generation=generation)) == before
    assert told(ledger, event(message="other")) == before


def test_one_recipients_event_proves_one_request(ledger: Ledger) -> None:
    """The provider takes a request as a whole: whoever else was in it is not in doubt any more."""
    in_doubt(ledger, ANN, BOB)
    entry = told(ledger, event("delivered", whole=True))
    assert (entry.status, statuses(entry)) == (Status.SENT, [DeliveryStatus.ACCEPTED] * 2)
    assert [d.events for d in entry.deliveries] == [(("delivered", AT),), (("accepted", AT),)]


def test_where_requests_can_be_taken_in_part_each_recipient_is_proven_alone(ledger: Ledger) -> None:
    """A batch: the others stay in doubt until something is told about them."""
    in_doubt(ledger, ANN, BOB)
    entry = told(ledger, event("delivered"))
    assert (entry.status, statuses(entry)) == (
        Status.IN_DOUBT,
        [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT],
    )
    entry = told(ledger, event("bounced", BOB))
    assert entry.status is Status.SENT


def test_an_event_about_an_earlier_hand_over_proves_that_one_alone(ledger: Ledger) -> None:
    """Ann had it from the first attempt; that says nothing about Bob's, whose reply was lost."""
    entry = ledger.settle(
        begun(ledger, ANN, BOB), {ANN: YES, BOB: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>", ONE, POLICY
    )
    entry = ledger.begin(entry, [BOB], "<m>", ONE, POLICY)
    ledger.settle(entry, {BOB: LOST}, "<m>", ONE, POLICY)
    for one in (
        event(whole=True, attempt=1),
        event(whole=True, attempt=2),
        event(who=None, whole=True, attempt=1),
    ):
        assert told(ledger, one).deliveries[1].status is DeliveryStatus.IN_DOUBT
    assert told(ledger, event(who=None, whole=True, attempt=2)).status is Status.SENT


def test_a_rejection_of_one_proves_nothing_about_the_others(ledger: Ledger) -> None:
    """Providers reject a request as a whole as well, one event a recipient."""
    in_doubt(ledger, ANN, BOB)
    entry = told(ledger, event("rejected", whole=True))
    assert statuses(entry) == [DeliveryStatus.REFUSED, DeliveryStatus.IN_DOUBT]


def test_what_was_offered_again_still_carries_its_first_number(ledger: Ledger) -> None:
    """Frozen content names the hand-over that it was made for."""
    entry = in_doubt(ledger, ANN, BOB, offer=Offer("key", 3600, "sealed"))
    entry = ledger.begin_again(entry, ONE, POLICY)
    ledger.settle(entry, {ANN: LOST, BOB: LOST}, "<m>", ONE, POLICY)
    entry = told(ledger, event(who=None, whole=True, attempt=1))
    assert (entry.status, entry.sealed, entry.provider_key) == (Status.SENT, "", "")


def test_an_event_before_the_reply_does_not_disturb_the_run(ledger: Ledger) -> None:
    """A webhook faster than our own write: the run goes on, and both are on record."""
    entry = begun(ledger)
    assert told(ledger, event()).status is Status.SENDING
    entry = ledger.settle(entry, {ANN: YES}, "<m>", ONE, POLICY)
    assert told(ledger, event("complained")).status is Status.CLAIMED
    entry = ledger.begin(entry, [BOB], "<m>", ONE, POLICY)
    assert told(ledger, event("delivered", BOB)).attempts == 2
    entry = ledger.settle(entry, {BOB: YES}, "<m>", ONE, POLICY)
    entry = ledger.complete(entry, "done")
    assert entry.status is Status.SENT
    assert [[kind for kind, _ in d.events] for d in entry.deliveries] == [
        ["complained", "delivered"],
        ["delivered"],
    ]


def test_an_event_before_a_reply_that_is_lost_is_its_proof(ledger: Ledger) -> None:
    """The run learns from its own write that there is no doubt, and goes on."""
    entry = begun(ledger, ANN, BOB)
    told(ledger, event(whole=True))
    entry = ledger.settle(entry, {ANN: LOST, BOB: LOST}, "<m>", ONE, POLICY)
    assert (entry.status, statuses(entry)) == (Status.CLAIMED, [DeliveryStatus.ACCEPTED] * 2)
    assert ledger.complete(entry, "done").status is Status.SENT


def test_an_event_and_a_refusal_that_contradicts_it(ledger: Ledger) -> None:
    """P1: the provider has delivered it, so a "come back later" for it is not followed."""
    entry = begun(ledger)
    told(ledger, event())
    entry = ledger.settle(entry, {ANN: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>", ONE, POLICY)
    assert statuses(entry) == [DeliveryStatus.ACCEPTED]


def test_events_stay_when_the_outcome_is_written(ledger: Ledger) -> None:
    """By a run that has read the entry since, too."""
    begun(ledger)
    entry = ledger.settle(told(ledger, event("bounced")), {ANN: YES}, "<m>", ONE, POLICY)
    assert entry.deliveries[0].events == (("bounced", AT),)


def test_an_event_and_then_a_crash(ledger: Ledger, clock: Clock) -> None:
    """P1, P2: proven before the deadline, the mail is not in doubt after it; the body may be finished."""
    begun(ledger)
    told(ledger, event())
    clock.forward(31)
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Acquired)
    assert statuses(outcome.entry) == [DeliveryStatus.ACCEPTED]


def test_a_crash_and_then_an_event(ledger: Ledger, clock: Clock) -> None:
    """Nobody has looked at the entry since its deadline passed; the event settles it all the same."""
    begun(ledger)
    clock.forward(31)
    assert told(ledger, event()).status is Status.SENT


def test_an_event_takes_no_claim_away(ledger: Ledger) -> None:
    """Who has lost the claim to another task does not get it back by an event."""
    entry = begun(ledger)
    entry = ledger.settle(entry, {ANN: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>", ONE, POLICY)
    ledger.release(entry, POLICY)
    assert isinstance(ledger.claim(TWO, POLICY), Acquired)
    told(ledger, event("deferred"))
    with pytest.raises(ClaimLost):
        ledger.begin(entry, [ANN], "<m>", ONE, POLICY)


def test_a_proof_for_a_deferred_recipient_keeps_it_from_being_offered_again(ledger: Ledger) -> None:
    """P1: the provider has it, whatever its reply was taken for, or an operator said."""
    entry = ledger.settle(begun(ledger), {ANN: Reply(DeliveryStatus.DEFERRED, 450)}, "<m>", ONE, POLICY)
    ledger.release(entry, POLICY)
    entry = told(ledger, event("delivered"))
    assert (entry.status, statuses(entry)) == (Status.RELEASED, [DeliveryStatus.ACCEPTED])


def test_a_confirmation_that_was_lost_and_an_event_since(ledger: Ledger) -> None:
    """The run recognises its own write although something was told about it meanwhile."""
    entry = begun(ledger)
    stored = ledger.settle(entry, {ANN: YES}, "<m>", ONE, POLICY)
    told(ledger, event())
    again = ledger.settle(entry, {ANN: YES}, "<m>", ONE, POLICY)
    assert again.version == stored.version + 1
    assert again.deliveries[0].events
