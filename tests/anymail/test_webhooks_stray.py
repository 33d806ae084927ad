"""Webhooks about mail or people that the ledger does not know, and many of them in one post."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, LedgerUnavailable, Status
from celery_idempotent.contrib.anymail.message_marks import Mark
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.transport_protocol import HandOverId
from tests.anymail import webhooks
from tests.anymail.conftest import Use
from tests.anymail.receipts import ANN, BOB, entry, metadata, send
from tests.anymail.signing import sign
from tests.anymail.webhooks import AT, WEBHOOKS, Post
from tests.support.providers import API


@pytest.mark.parametrize("name", WEBHOOKS)
def test_an_unknown_key_is_answered_and_logged(
    name: str, doubtful: Any, told: Any, memory_ledger: Any, caplog: Any
) -> None:
    """An entry that was purged long ago: an error would have the provider tell it for days."""
    mark = doubtful(name)
    memory_ledger.store.clear()
    with caplog.at_level(logging.INFO, "celery_idempotent"):
        assert told(WEBHOOKS[name]("delivered", ANN, mark)) == 200
    assert "does not know" in caplog.text
    assert ANN not in caplog.text
    assert entry() is None


@pytest.mark.parametrize("name", WEBHOOKS)
def test_an_unknown_recipient_gets_nobody_a_bounce(name: str, doubtful: Any, told: Any) -> None:
    """An address that the message was never for, as after a forwarding: the request is proven, no more."""
    mark = doubtful(name)
    assert told(WEBHOOKS[name]("bounced", "else@example.net", mark)) == 200
    assert entry().status is Status.SENT
    assert entry().deliveries[0].events == (("accepted", AT),)


def test_an_address_that_is_none_is_nobodys(doubtful: Any, told: Any) -> None:
    """A lone surrogate, which JSON can hold: an error would have the provider tell it for days."""
    mark = doubtful("mailgun")
    assert told(webhooks.mailgun("bounced", "\ud800@example.com", mark)) == 200
    assert entry().deliveries[0].events == (("accepted", AT),)


def test_other_mail_of_the_project_is_none_of_our_business(told: Any, use: Use, memory_ledger: Any) -> None:
    """Webhooks tell about everything that the account sends."""
    use("postmark", "")
    for data in ({}, {"user": "7"}):
        assert told(webhooks.postmark("delivered", ANN, data)) == 200
    assert not memory_ledger.store.keys()


@pytest.fixture
def two_doubts(use: Use) -> dict[int, dict[str, str]]:
    """Two receipts whose replies were lost; the metadata that SendGrid has of each."""
    found = {}
    with API("drop_after_accept") as api:
        use("sendgrid", api)
        for order in (1, 2):
            assert isinstance(send(order=order).result, DeliveryInDoubt)
            found[order] = metadata(api, "sendgrid")
    return found


def batch(two_doubts: dict[int, dict[str, str]]) -> Post:
    """Return a post about both, with others' events between them."""
    event = webhooks.sendgrid_event
    forged = {**two_doubts[2], Mark.SIGNATURE: "0" * 43}
    unknown = Mark.write(HandOverId("1:" + "0" * 64, 1, 1, "<gone@x>"), True)
    odd = {**event("delivered", ANN, {}), "event": "something new", "email": None}
    told = [
        event("delivered", ANN, two_doubts[1]),
        event("rejected", ANN, forged),
        event("delivered", ANN, unknown),
        event("delivered", BOB, {"order": "7"}),
        odd,
        event("delivered", ANN, two_doubts[2]),
    ]
    return sign("sendgrid", told)


def test_a_post_with_many_events_tells_each_its_own(two_doubts: Any, told: Any) -> None:
    """Genuine, forged, unknown and others' events side by side: the two genuine ones are heard."""
    assert told(batch(two_doubts)) == 200
    for order in (1, 2):
        assert entry(order).status is Status.SENT
        assert entry(order).deliveries[0].events == (("delivered", AT),)


def test_a_post_that_breaks_off_in_the_middle_is_told_again(
    two_doubts: Any, told: Any, memory_ledger: Any, monkeypatch: Any
) -> None:
    """The ledger goes away after the first event: 500, and then all of it once more comes to the same."""
    asked, look = [], memory_ledger.store.get

    def goes_away(key: str) -> Any:
        asked.append(key)
        if len(asked) > 1:
            raise LedgerUnavailable("gone")
        return look(key)

    with monkeypatch.context() as patch:
        patch.setattr(memory_ledger.store, "get", goes_away)
        assert told(batch(two_doubts)) == 500
    assert (entry(1).status, entry(2).status) == (Status.SENT, Status.IN_DOUBT)
    first = entry(1)
    assert told(batch(two_doubts)) == 200
    assert entry(1) == first
    assert entry(2).deliveries[0].status is DeliveryStatus.ACCEPTED
