"""A project's receivers of Anymail's signals: what they may change, and what is on record before that."""

from __future__ import annotations

from typing import Any

import pytest
from anymail.exceptions import AnymailCancelSend
from anymail.signals import post_send, pre_send

from celery_idempotent import Status
from celery_idempotent.exceptions import RecipientsRefused
from celery_idempotent.ledger.status import DeliveryStatus
from tests.anymail.conftest import Use
from tests.anymail.outbox import answer
from tests.anymail.receipts import ACCEPTED, ANN, BOB, REFUSED, entry, send, statuses
from tests.support.providers import API


@pytest.fixture
def receiver() -> Any:
    """Connect a receiver to one of Anymail's signals for the length of a test."""
    connected = []

    def connect(signal: Any, function: Any) -> None:
        signal.connect(function)
        connected.append((signal, function))

    yield connect
    for signal, function in connected:
        signal.disconnect(function)


def test_a_receiver_that_raises_after_the_acceptance_changes_nothing(use: Use, receiver: Any) -> None:
    """django-anymail raises it as if the send had failed; the mail has been taken."""
    seen = []

    def failing(sender: Any, **_: Any) -> None:
        seen.extend(statuses())
        raise ValueError("a receiver's own")

    receiver(post_send, failing)
    with API() as api:
        use("mailgun", api)
        assert send().get() == "sent"
    assert len(api.accepted) == 1
    assert entry().status is Status.SENT
    assert seen == [DeliveryStatus.ACCEPTED], "on record before anybody else is told"


def test_a_receiver_that_cancels(use: Use, receiver: Any) -> None:
    """The project itself refuses: visible, and never offered."""

    def cancelling(sender: Any, **_: Any) -> None:
        raise AnymailCancelSend("not to them")

    receiver(pre_send, cancelling)
    with API() as api:
        use("mailgun", api)
        assert isinstance(send().result, RecipientsRefused)
    assert api.requests == []
    assert "pre_send" in entry().deliveries[0].detail


def test_a_receiver_that_takes_a_recipient_off(use: Use, receiver: Any) -> None:
    """A suppression list of the project's: Bob is refused, Ann served."""

    def suppressing(sender: Any, message: Any, **_: Any) -> None:
        message.to = [address for address in message.to if "bob" not in address]

    receiver(pre_send, suppressing)
    with API() as api:
        use("postmark", api)
        assert isinstance(send(ANN, BOB).result, RecipientsRefused)
    assert statuses() == [DeliveryStatus.REFUSED, DeliveryStatus.ACCEPTED]
    assert [sent.body["To"] for sent in api.accepted] == [ANN]


def test_a_receiver_that_redirects(use: Use, receiver: Any) -> None:
    """A staging system's: the mail has gone out for those it was meant for, once."""

    def redirecting(sender: Any, message: Any, **_: Any) -> None:
        message.to = ["dev@example.com"]

    receiver(pre_send, redirecting)
    with API() as api:
        use("postmark", api)
        assert send().get() == "sent"
        assert send().get() == "sent"
    assert [sent.body["To"] for sent in api.accepted] == ["dev@example.com"]


def test_a_post_send_receiver_gets_what_anymail_gives_it(outbox: None, receiver: Any) -> None:
    """Status, provider and message, for projects that listen themselves, once for each request."""
    heard = []

    def hearing(sender: Any, message: Any, status: Any, esp_name: str, **_: Any) -> None:
        heard.append((esp_name, dict(status.recipients), message.recipients(), statuses()))

    receiver(post_send, hearing)
    send(ANN, BOB, anymail_test_response=answer(ann="sent", bob="rejected"))
    send(ANN, BOB)
    ((name, status, to, on_record),) = heard
    assert name == "Test"
    assert {address: one.status for address, one in status.items()} == {ANN: "sent", BOB: "rejected"}
    assert to == [ANN, BOB]
    assert on_record == [ACCEPTED, REFUSED]
