"""What is said of each recipient, by Anymail's word for it, or in Postmark's own words."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, Status
from celery_idempotent.exceptions import RecipientsDeferred, RecipientsRefused
from celery_idempotent.ledger.status import DeliveryStatus
from tests.anymail.conftest import Use
from tests.anymail.outbox import answer, offered
from tests.anymail.receipts import (
    ACCEPTED,
    ANN,
    BOB,
    DEFERRED,
    IN_DOUBT,
    PEOPLE,
    REFUSED,
    entry,
    send,
    statuses,
)
from tests.support.providers import API

pytestmark = pytest.mark.usefixtures("outbox")

SAID = {
    "sent": ACCEPTED,
    "queued": ACCEPTED,
    "invalid": REFUSED,
    "rejected": REFUSED,
    "failed": DEFERRED,
    "unknown": IN_DOUBT,
}


def expected(found: set[DeliveryStatus]) -> Any:
    """Return what a run ends with that leaves recipients in these states."""
    if IN_DOUBT in found:
        return DeliveryInDoubt
    if DEFERRED in found:
        return RecipientsDeferred
    return RecipientsRefused if REFUSED in found else str


MIXES = [
    *itertools.product(SAID),
    *itertools.product(SAID, repeat=2),
    *itertools.combinations(["sent", "rejected", "failed", "unknown"], 3),
]


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_each_recipient_is_settled_by_what_was_said_of_it(mix: tuple[str, ...]) -> None:
    """The table in docs/how-to/anymail.md: accepted or refused is done, failed is offered it again, alone."""
    people = PEOPLE[: len(mix)]
    names = [address.partition("@")[0] for address in people]
    found = [SAID[said] for said in mix]
    said = answer(**dict(zip(names, mix, strict=True)))
    assert isinstance(send(*people, anymail_test_response=said).result, expected(set(found)))
    assert statuses() == found
    assert [delivery.detail for delivery in entry().deliveries] == [
        f"{word} id-{name}" for word, name in zip(mix, names, strict=True)
    ]
    again = (
        []
        if IN_DOUBT in found
        else [who for who, status in zip(people, found, strict=True) if status is DEFERRED]
    )
    after = [ACCEPTED if who in again else status for who, status in zip(people, found, strict=True)]
    assert isinstance(send(*people).result, expected(set(after)))
    assert offered() == [people] + ([again] if again else [])
    assert statuses() == after
    ends = {DeliveryInDoubt: Status.IN_DOUBT, RecipientsRefused: Status.FAILED, str: Status.SENT}
    assert entry().status is ends[expected(set(after))]


def test_whoever_the_provider_does_not_mention_shares_what_all_others_got() -> None:
    """One word for all mentioned is a word about the request; two are not."""
    assert send(*PEOPLE, anymail_test_response=answer(ann="sent", bob="queued")).get() == "sent"
    assert statuses() == [ACCEPTED] * 3
    said = answer(ann="sent", bob="rejected")
    assert isinstance(send(*PEOPLE, order=2, anymail_test_response=said).result, DeliveryInDoubt)
    assert statuses(2) == [ACCEPTED, REFUSED, IN_DOUBT]


def test_an_answer_that_cannot_be_parsed_is_doubt() -> None:
    """Anymail's own "Unparsable test response": it was sent, and nobody knows what of it."""
    assert isinstance(send(anymail_test_response={"other": 1}).result, DeliveryInDoubt)
    assert isinstance(send().result, DeliveryInDoubt)
    assert offered() == [[ANN]]


POSTMARK_PARTLY = (
    200,
    {
        "ErrorCode": 0,
        "Message": "Message OK, but will not deliver to these inactive addresses: bob@example.com. "
        "Inactive recipients are ones that have generated a hard bounce or a spam complaint.",
        "MessageID": "id-9",
        "To": "ann@example.com, bob@example.com",
    },
)
POSTMARK_INVALID = (422, {"ErrorCode": 300, "Message": "Invalid 'To' address: 'bob@example.com'."})


def test_a_providers_word_on_each_recipient_fills_the_deliveries(use: Use) -> None:
    """Postmark took it for Ann alone; Bob is refused for good."""
    with API(POSTMARK_PARTLY) as api:
        use("postmark", api)
        assert isinstance(send(ANN, BOB).result, RecipientsRefused)
    assert statuses() == [DeliveryStatus.ACCEPTED, DeliveryStatus.REFUSED]
    assert entry().deliveries[0].detail == "sent id-9"


def test_an_answer_that_took_nothing_is_no_acceptance_for_the_others(use: Use) -> None:
    """P2: Postmark sends to nobody when one address is invalid; a retry offers it to the others alone."""
    with API(POSTMARK_INVALID, "ok") as api:
        use("postmark", api)
        assert isinstance(send(ANN, BOB).result, RecipientsDeferred)
        assert statuses() == [DeliveryStatus.DEFERRED, DeliveryStatus.REFUSED]
        assert isinstance(send(ANN, BOB).result, RecipientsRefused)
    assert [sent.body["To"] for sent in api.accepted] == [ANN]


def test_whoever_is_left_in_cc_is_offered_it_in_to(use: Use) -> None:
    """P2: Bob in To is invalid, Ann in Cc is not, and Postmark takes no message to nobody."""
    with API(POSTMARK_INVALID, "ok") as api:
        use("postmark", api)
        assert isinstance(send(BOB, cc=[ANN]).result, RecipientsDeferred)
        assert isinstance(send(BOB, cc=[ANN]).result, RecipientsRefused)
    assert statuses() == [DeliveryStatus.REFUSED, DeliveryStatus.ACCEPTED]
    assert [sent.body["To"] for sent in api.accepted] == [ANN]
    assert not api.accepted[0].body.get("Cc")
