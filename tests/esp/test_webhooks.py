"""Anymail's own webhook views and what they come to in the ledger."""

from __future__ import annotations

import base64
import email
import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest
from celery import Celery
from django.core.mail import EmailMessage
from django.test import Client

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, LedgerUnavailable, Status
from celery_idempotent.contrib.anymail import marks
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.mail.transports import HandOverId
from tests.esp import webhooks
from tests.esp.conftest import PROVIDERS
from tests.esp.webhooks import AT, WEBHOOKS, Post
from tests.support.providers import API

app = Celery("webhooks", broker="memory://", backend="cache+memory://", set_as_current=False)
pytestmark = [
    pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailNotSupportedWarning"),
    pytest.mark.urls("tests.urls"),
]
ANN, BOB = "ann@example.com", "bob@example.com"
Use = Callable[..., None]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="receipt")
def receipt(order: int, to: list[str], merge: bool = False) -> str:
    message = EmailMessage("Your receipt", "text", to=to)
    if merge:
        message.merge_data = {}
    message.send()
    return "sent"


def entry(order: int = 1) -> Any:
    return receipt.entry_for(order, [])


@pytest.fixture
def told(settings: Any) -> Callable[[Post], int]:
    """Post to Anymail's view as a provider does, and return the status of the answer."""

    def told(post: Post) -> int:
        settings.ANYMAIL = {**settings.ANYMAIL, **webhooks.SETTINGS}
        name, body, headers = post
        client = Client(raise_request_exception=False)
        path = f"/anymail/{name}/tracking/"
        return client.post(path, body, content_type="application/json", headers=headers).status_code

    return told


def metadata(api: API, name: str) -> dict[str, str]:
    """Return what the provider got as metadata, from the newest request."""
    body = api.requests[-1].body
    match name:
        case "mailgun":
            return {name[2:]: value for name, value in parse_qsl(body) if name.startswith("v:")}
        case "postmark":
            return dict(body["Metadata"])
        case "sendgrid":
            return {**body["custom_args"], **body["personalizations"][0].get("custom_args", {})}
        case "resend":
            return dict(json.loads(body["headers"]["X-Metadata"]))
        case _:
            raw = base64.b64decode(body["Content"]["Raw"]["Data"])
            text = email.message_from_bytes(raw)["X-Metadata"]
            return dict(json.loads(text.replace("\r\n", "").replace("\n", "")))


@pytest.fixture
def doubtful(use: Use, settings: Any) -> Callable[..., dict[str, str]]:
    """Send a receipt whose reply is lost; return the metadata that the provider has got."""

    def doubtful(name: str, *to: str, **more: Any) -> dict[str, str]:
        with API("drop_after_accept") as api:
            use(name, api, ENCRYPTION_KEYS=[])  # or Resend would settle it by itself
            assert isinstance(receipt.apply((1, list(to or [ANN])), more).result, DeliveryInDoubt)
            assert entry().status is Status.IN_DOUBT
            return metadata(api, name)

    return doubtful


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_webhook_settles_a_doubt(name: str, doubtful: Any, told: Any) -> None:
    """In doubt becomes sent by what the provider got and tells; a duplicate is a duplicate then."""
    mark = doubtful(name)
    assert told(WEBHOOKS[name]("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().deliveries[0].status is DeliveryStatus.ACCEPTED
    assert entry().deliveries[0].events == (("delivered", AT),)
    assert entry().audit[-1].actor.lower().replace(" ", "_") == name
    assert receipt.apply((1, [ANN])).get() is None


@pytest.mark.parametrize("name", WEBHOOKS)
def test_what_happened_later_is_kept_beside(name: str, use: Use, told: Any) -> None:
    """Delivered, bounced, complained: with their times, and the acceptance stands."""
    with API() as api:
        use(name, api)
        assert receipt.apply((1, [ANN])).get() == "sent"
        mark = metadata(api, name)
    for kind in ("delivered", "bounced", "complained"):
        assert told(WEBHOOKS[name](kind, ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().result == "sent"
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED]
    assert {kind for kind, _ in entry().deliveries[0].events} == {"delivered", "bounced", "complained"}


@pytest.mark.parametrize("name", [name for name in WEBHOOKS if name != "resend"])
def test_a_rejection_settles_a_doubt_as_refused(name: str, doubtful: Any, told: Any) -> None:
    """The provider has it and will not deliver it."""
    mark = doubtful(name)
    assert told(WEBHOOKS[name]("rejected", ANN, mark)) == 200
    assert entry().status is Status.FAILED
    assert entry().deliveries[0].status is DeliveryStatus.REFUSED


def test_one_recipient_proves_the_request(doubtful: Any, told: Any) -> None:
    """Mailgun tells about Ann; Bob was in the same request."""
    mark = doubtful("mailgun", ANN, BOB)
    assert told(webhooks.mailgun("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED] * 2


def test_of_a_batch_each_recipient_is_proven_alone(doubtful: Any, told: Any) -> None:
    """Merge data makes a message for each: one may have been taken without the other."""
    mark = doubtful("mailgun", ANN, BOB, merge=True)
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


def forged(post: Post, change: str) -> Post:
    """Return ``post`` as somebody would send it who does not know the secrets."""
    name, body, headers = post
    headers = dict(headers)
    match change:
        case "no password":
            del headers["Authorization"]
        case "wrong password":
            headers["Authorization"] = "Basic dXNlcjp3cm9uZw=="
        case "other content":
            body = body.replace(b"delivered", b"bounced__").replace(b"Delivery", b"Bounced_")
        case "no signature":
            headers = {key: value for key, value in headers.items() if "ignature" not in key}
            body = body.replace(b'"signature": "', b'"signature": "0')
    return name, body, headers


FORGERIES = [
    ("postmark", "no password"),
    ("postmark", "wrong password"),
    ("amazon_ses", "no password"),
    ("amazon_ses", "wrong password"),
    ("mailgun", "no password"),
    ("mailgun", "no signature"),
    ("sendgrid", "wrong password"),
    ("sendgrid", "no signature"),
    ("sendgrid", "other content"),
    ("resend", "no signature"),
    ("resend", "other content"),
]


@pytest.mark.parametrize(("name", "change"), FORGERIES)
def test_a_forged_webhook_is_refused(name: str, change: str, doubtful: Any, told: Any) -> None:
    """Anymail answers with an error, and nothing of it gets as far as the ledger."""
    mark = doubtful(name)
    before = entry()
    assert told(forged(WEBHOOKS[name]("delivered", ANN, mark), change)) in (400, 401)
    assert entry() == before
    assert entry().status is Status.IN_DOUBT


def test_a_replayed_webhook_changes_nothing(doubtful: Any, told: Any) -> None:
    """What was genuine once is known already; Svix refuses it altogether when it is old."""
    mark = doubtful("mailgun")
    post = webhooks.mailgun("delivered", ANN, mark)
    told(post)
    before = entry()
    assert told(post) == 200
    assert entry() == before
    assert told(webhooks.resend("delivered", ANN, mark, age=3600)) == 400


def test_a_replayed_signature_with_another_mark_lets_nobody_in(doubtful: Any, told: Any, use: Use) -> None:
    """Mailgun signs no content: whoever has one of its signatures can post anything, but has no other mark."""
    mark = doubtful("mailgun")
    before = entry()
    other = HandOverId(entry().key, 1, 1, "<other@x>")
    for made_up in (
        {**mark, marks.SIGNATURE: "0" * 43},
        {**mark, marks.PLACE: mark[marks.PLACE].replace("1.1.", "1.2.")},
        {**mark, marks.KEY: "1:" + "0" * 64},
        {**mark, marks.SIGNATURE: marks.write(other, True)[marks.SIGNATURE]},
        {name: value for name, value in mark.items() if name != marks.SIGNATURE},
        {**mark, marks.PLACE: ["1"]},
        {},
    ):
        assert told(webhooks.mailgun("delivered", ANN, made_up)) == 200
    assert entry() == before


def test_an_unknown_key_is_answered_and_logged(
    doubtful: Any, told: Any, memory_ledger: Any, caplog: Any
) -> None:
    """An entry that was purged long ago: an error would have the provider tell it for days."""
    mark = doubtful("postmark")
    memory_ledger.store._entries.clear()
    with caplog.at_level(logging.INFO, "celery_idempotent"):
        assert told(webhooks.postmark("delivered", ANN, mark)) == 200
    assert "does not know" in caplog.text
    assert ANN not in caplog.text
    assert entry() is None


def test_an_address_that_is_none_is_nobodys(doubtful: Any, told: Any) -> None:
    """A lone surrogate, which JSON can hold: an error would have the provider tell it for days."""
    mark = doubtful("mailgun")
    assert told(webhooks.mailgun("bounced", "\ud800@example.com", mark)) == 200
    assert entry().deliveries[0].events == (("accepted", AT),)


def test_an_older_generation_is_left_alone(doubtful: Any, told: Any, memory_ledger: Any) -> None:
    """A complaint about last year's mail says nothing about this year's."""
    mark = doubtful("postmark")
    old = HandOverId(entry().key, 0, 1, entry().deliveries[0].message_id)
    before = entry()
    assert told(webhooks.postmark("complained", ANN, marks.write(old, True))) == 200
    assert entry() == before
    assert mark[marks.PLACE].startswith("1.1.")


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


def test_a_webhook_faster_than_the_reply(use: Use, told: Any, settings: Any) -> None:
    """It comes while the request is still open: the run goes on, and both are on record."""
    seen = []

    class Quick(API):
        def take(self, sent: Any) -> Any:
            answer = super().take(sent)
            seen.append(told(webhooks.postmark("delivered", ANN, dict(sent.body["Metadata"]))))
            return answer

    with Quick() as api:
        use("postmark", api)
        assert receipt.apply((1, [ANN])).get() == "sent"
    assert seen == [200]
    assert entry().status is Status.SENT
    assert entry().deliveries[0].events == (("delivered", AT),)
    assert entry().audit == ()


def test_a_webhook_before_a_reply_that_is_lost(use: Use, told: Any) -> None:
    """No doubt arises: the run itself learns that the provider has it, and goes on to its end."""

    class Quick(API):
        def take(self, sent: Any) -> Any:
            answer = super().take(sent)
            told(webhooks.postmark("delivered", ANN, dict(sent.body["Metadata"])))
            return answer

    with Quick("drop_after_accept") as api:
        use("postmark", api)
        assert receipt.apply((1, [ANN])).get() == "sent"
    assert len(api.requests) == 1
    assert entry().status is Status.SENT


def test_other_mail_of_the_project_is_none_of_our_business(told: Any, use: Use, memory_ledger: Any) -> None:
    """Webhooks tell about everything that the account sends."""
    use("postmark", "")
    for data in ({}, {"user": "7"}):
        assert told(webhooks.postmark("delivered", ANN, data)) == 200
    assert memory_ledger.store._entries == {}


def test_what_was_offered_again_is_proven_by_its_first_mark(use: Use, told: Any) -> None:
    """Frozen content names the first hand-over; the last one is in doubt."""
    with API("drop_after_accept") as api:
        use("resend", api)
        receipt.apply((1, [ANN]))
        mark = metadata(api, "resend")
    assert entry().attempts == 3
    assert entry().sealed
    assert told(webhooks.resend("accepted", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().sealed == ""


def test_marks_hold_no_address_and_fit_everywhere() -> None:
    """P7, and Postmark's limits: 20 characters a name, 80 a value."""
    made = marks.write(HandOverId("1:" + "f" * 64, 10**8, 10**8, f"<{'x' * 200}@{ANN}>"), True)
    assert all(len(name) <= 20 and len(value) <= 80 for name, value in made.items())
    assert "@" not in "".join(made.values())
    assert marks.read(made) is not None
    assert set(PROVIDERS) >= set(WEBHOOKS)
