"""Anymail's own webhook views and what they come to in the ledger."""

from __future__ import annotations

from typing import Any

import pytest

from celery_idempotent import LedgerUnavailable, Status
from celery_idempotent.contrib.anymail.message_marks import Mark
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.transport_protocol import HandOverId
from tests.anymail import webhooks
from tests.anymail.conftest import PROVIDERS, Use
from tests.anymail.receipts import ANN, BOB, entry, metadata, send
from tests.anymail.webhooks import AT, WEBHOOKS
from tests.support.providers import API


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_webhook_settles_a_doubt(name: str, doubtful: Any, told: Any) -> None:
    """In doubt becomes sent by what the provider got and tells; a duplicate is a duplicate then."""
    mark = doubtful(name)
    assert told(WEBHOOKS[name]("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().deliveries[0].status is DeliveryStatus.ACCEPTED
    assert entry().deliveries[0].events == (("delivered", AT),)
    assert entry().audit[-1].actor.lower().replace(" ", "_") == name
    assert send().get() is None


@pytest.mark.parametrize("name", WEBHOOKS)
def test_what_happened_later_is_kept_beside(name: str, use: Use, told: Any) -> None:
    """Accepted, delivered, bounced, complained: with their times, and the acceptance stands."""
    with API() as api:
        use(name, api)
        assert send().get() == "sent"
        mark = metadata(api, name)
    kinds = ("accepted", "delivered", "bounced", "complained")
    for kind in kinds:
        assert told(WEBHOOKS[name](kind, ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().result == "sent"
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED]
    assert set(entry().deliveries[0].events) == {(kind, AT) for kind in kinds}


@pytest.mark.parametrize("name", [name for name in WEBHOOKS if name != "resend"])
def test_a_rejection_settles_a_doubt_as_refused(name: str, doubtful: Any, told: Any) -> None:
    """The provider has it and will not deliver it."""
    mark = doubtful(name)
    assert told(WEBHOOKS[name]("rejected", ANN, mark)) == 200
    assert entry().status is Status.FAILED
    assert entry().deliveries[0].status is DeliveryStatus.REFUSED
    assert entry().deliveries[0].events == (("rejected", AT),)


@pytest.mark.parametrize("name", [name for name in WEBHOOKS if name != "amazon_ses"])
def test_a_delay_proves_that_the_provider_has_it(name: str, doubtful: Any, told: Any) -> None:
    """It goes on trying, so nobody else has to."""
    mark = doubtful(name)
    assert told(WEBHOOKS[name]("deferred", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().deliveries[0].events == (("deferred", AT),)


def test_a_delay_at_amazon_changes_nothing(doubtful: Any, told: Any) -> None:
    """Anymail calls a DeliveryDelay unknown, and names everybody; the event that comes in the end counts."""
    mark = doubtful("amazon_ses", ANN, BOB)
    before = entry()
    assert told(webhooks.amazon_ses("deferred", ANN, mark, also=(BOB,))) == 200
    assert entry() == before
    assert told(webhooks.amazon_ses("delivered", ANN, mark, also=(BOB,))) == 200
    assert entry().status is Status.SENT


def test_one_recipient_proves_the_request(doubtful: Any, told: Any) -> None:
    """Mailgun tells about Ann; Bob was in the same request."""
    mark = doubtful("mailgun", ANN, BOB)
    assert told(webhooks.mailgun("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED] * 2


def test_of_a_batch_each_recipient_is_proven_alone(doubtful: Any, told: Any) -> None:
    """Merge data makes a message for each: one may have been taken without the other."""
    mark = doubtful("mailgun", ANN, BOB, merge_data={})
    assert told(webhooks.mailgun("delivered", ANN, mark)) == 200
    assert entry().status is Status.IN_DOUBT
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT]
    assert told(webhooks.mailgun("delivered", BOB, mark)) == 200
    assert entry().status is Status.SENT


def test_resend_does_not_say_about_whom(doubtful: Any, told: Any) -> None:
    """An event about one of several proves the request, and is nobody's bounce."""
    mark = doubtful("resend", ANN, BOB)
    assert told(webhooks.resend("bounced", ANN, mark, also=(BOB,))) == 200
    assert entry().status is Status.SENT
    assert [d.events for d in entry().deliveries] == [(("accepted", AT),)] * 2


def test_the_address_is_compared_in_its_normal_form(doubtful: Any, told: Any) -> None:
    """Providers tell it back in lower case, or as it was written."""
    mark = doubtful("postmark", "Ann <Ann@Example.com>")
    assert told(webhooks.postmark("bounced", "ann@EXAMPLE.com", mark)) == 200
    assert entry().deliveries[0].events == (("bounced", AT),)


def test_a_ledger_that_does_not_answer_has_the_provider_tell_it_again(
    doubtful: Any, told: Any, memory_ledger: Any, monkeypatch: Any
) -> None:
    """Nothing is lost: a 500 is a request to come back."""
    mark = doubtful("postmark")
    with monkeypatch.context() as patch:

        def away(*_: Any) -> None:
            raise LedgerUnavailable("gone")

        patch.setattr(memory_ledger.store, "get", away)
        assert told(webhooks.postmark("delivered", ANN, mark)) == 500
    assert told(webhooks.postmark("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT


class Quick(API):
    """Posts its webhook while the request is still open."""

    def __init__(self, told: Any, *script: Any) -> None:
        super().__init__(*script)
        self.told = told
        self.answers: list[int] = []

    def take(self, sent: Any) -> Any:
        answer = super().take(sent)
        self.answers.append(self.told(webhooks.postmark("delivered", ANN, dict(sent.body["Metadata"]))))
        return answer


def test_a_webhook_faster_than_the_reply(use: Use, told: Any) -> None:
    """The run goes on, and both are on record."""
    with Quick(told) as api:
        use("postmark", api)
        assert send().get() == "sent"
    assert api.answers == [200]
    assert entry().status is Status.SENT
    assert entry().deliveries[0].events == (("delivered", AT),)
    assert entry().audit == ()


def test_a_webhook_before_a_reply_that_is_lost(use: Use, told: Any) -> None:
    """No doubt arises: the run itself learns that the provider has it, and goes on to its end."""
    with Quick(told, "drop_after_accept") as api:
        use("postmark", api)
        assert send().get() == "sent"
    assert len(api.requests) == 1
    assert api.answers == [200]
    assert entry().status is Status.SENT


def test_what_was_offered_again_is_proven_by_its_first_mark(use: Use, told: Any) -> None:
    """Frozen content names the first hand-over; the last one is in doubt."""
    with API("drop_after_accept") as api:
        use("resend", api)
        send()
        mark = metadata(api, "resend")
    assert entry().attempts == 3
    assert entry().sealed
    assert told(webhooks.resend("accepted", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().sealed == ""


def test_marks_hold_no_address_and_fit_everywhere() -> None:
    """P7, and Postmark's limits: 20 characters a name, 80 a value."""
    made = Mark.write(HandOverId("1:" + "f" * 64, 10**8, 10**8, f"<{'x' * 200}@{ANN}>"), True)
    assert all(len(name) <= 20 and len(value) <= 80 for name, value in made.items())
    assert "@" not in "".join(made.values())
    assert Mark.read(made) is not None
    assert set(PROVIDERS) >= set(WEBHOOKS)
