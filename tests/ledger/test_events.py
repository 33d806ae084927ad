"""What a provider tells later: kept beside the delivery, and the end of a doubt."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import pytest

from celery_idempotent.ledger.audit import MAX_AUDIT, Intervention
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Duplicate
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.ledger.writes import swap
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import FakeClock, hold
from tests.ledger.provider_reports import (
    ANN,
    AT,
    BOB,
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


def test_what_an_event_adds_is_within_the_audits_bound(ledger: Ledger) -> None:
    """The oldest decision goes, as it does for those of people."""
    entry = in_doubt(ledger)
    old = Intervention("noted", "ann", "why", AT, 1, Status.IN_DOUBT)
    assert swap(ledger.store, replace(entry, audit=(old,) * MAX_AUDIT), entry)
    audit = told(ledger, event("delivered")).audit
    assert (len(audit), audit[-1].action) == (MAX_AUDIT, "proven: sent")


@pytest.mark.parametrize("kind", ["rejected", "failed"])
def test_a_rejection_settles_a_doubt_as_refused(ledger: Ledger, kind: str) -> None:
    """The provider took it and will not deliver it: not sent, and not to be offered again."""
    in_doubt(ledger)
    entry = told(ledger, event(kind))
    assert (entry.status, statuses(entry)) == (Status.FAILED, [DeliveryStatus.REFUSED])


def test_a_bounce_does_not_undo_an_acceptance(ledger: Ledger) -> None:
    """It is kept beside, with its time."""
    entry = hold(ledger, begun(ledger), ONE, POLICY).settle({ANN: YES}, "<m>")
    hold(ledger, entry).complete("done")
    entry = told(ledger, event("delivered"), event("bounced", at=AT + timedelta(hours=1)), event("rejected"))
    assert (entry.status, statuses(entry), entry.result) == (Status.SENT, [DeliveryStatus.ACCEPTED], "done")
    assert [kind for kind, _ in entry.deliveries[0].events] == ["delivered", "rejected", "bounced"]


def test_the_order_of_events_does_not_matter(ledger: Ledger, clock: FakeClock) -> None:
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


def test_a_rejection_of_one_proves_nothing_about_the_others(ledger: Ledger) -> None:
    """Providers reject a request as a whole as well, one event a recipient."""
    in_doubt(ledger, ANN, BOB)
    entry = told(ledger, event("rejected", whole=True))
    assert statuses(entry) == [DeliveryStatus.REFUSED, DeliveryStatus.IN_DOUBT]
