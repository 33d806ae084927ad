"""Webhooks that are forged, replayed or about nobody: nobody is let in, and nothing is lost."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, LedgerUnavailable, Status
from celery_idempotent.contrib.anymail import marks
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.mail.transports import HandOverId
from tests.esp import webhooks
from tests.esp.receipts import ANN, BOB, entry, metadata, receipt
from tests.esp.webhooks import AT, WEBHOOKS, Post
from tests.support.providers import API

pytestmark = [
    pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailNotSupportedWarning"),
    pytest.mark.urls("tests.urls"),
]
Use = Callable[..., None]
SIGNED = ["mailgun", "sendgrid", "resend"]


# -- forged ----------------------------------------------------------------------------------------------


def without(headers: dict[str, str], word: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if word not in name.lower()}


def changed(headers: dict[str, str], word: str, value: str) -> dict[str, str]:
    assert any(word in name.lower() for name in headers)
    return {name: value if word in name.lower() else before for name, before in headers.items()}


def block(body: bytes, **changes: Any) -> bytes:
    """Return Mailgun's body with changes to the block that is its signature; None takes the block out."""
    content = json.loads(body)
    content["signature"] |= changes
    if None in changes.values():
        del content["signature"]
    return json.dumps(content).encode()


LATER = str(int(time.time()) + 60)
Forgery = Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]
ANYWHERE: dict[str, Forgery] = {
    "no password": lambda body, headers: (body, without(headers, "authorization")),
    "wrong password": lambda body, headers: (body, changed(headers, "authorization", "Basic dXNlcjp3cm9uZw==")),
    "no basic auth": lambda body, headers: (body, changed(headers, "authorization", "Bearer user:password")),
}
FORGERIES: dict[str, dict[str, Forgery]] = {
    "postmark": {},
    "amazon_ses": {
        "another type": lambda body, headers: (
            body,
            changed(headers, "message-type", "UnsubscribeConfirmation"),
        ),
        "no type": lambda body, headers: (body, without(headers, "message-type")),
        "another id": lambda body, headers: (body, changed(headers, "message-id", "0")),
    },
    "mailgun": {
        "no signature": lambda body, headers: (block(body, signature=None), headers),
        "made-up signature": lambda body, headers: (block(body, signature="0" * 64), headers),
        "another time": lambda body, headers: (block(body, timestamp=LATER), headers),
        "another token": lambda body, headers: (block(body, token="b" * 50), headers),
    },
    "sendgrid": {
        "no signature": lambda body, headers: (body, without(headers, "signature")),
        "made-up signature": lambda body, headers: (body, changed(headers, "signature", "c2lnbmF0dXJl")),
        "no base64": lambda body, headers: (body, changed(headers, "signature", "!")),
        "no time": lambda body, headers: (body, without(headers, "timestamp")),
        "another time": lambda body, headers: (body, changed(headers, "timestamp", LATER)),
        "other content": lambda body, headers: (body.replace(b"delivered", b"dropped"), headers),
        "more content": lambda body, headers: (body + b" ", headers),
    },
    "resend": {
        "no signature": lambda body, headers: (body, without(headers, "signature")),
        "made-up signature": lambda body, headers: (body, changed(headers, "signature", "v1,c2lnbmF0dXJl")),
        "no time": lambda body, headers: (body, without(headers, "timestamp")),
        "another time": lambda body, headers: (body, changed(headers, "timestamp", LATER)),
        "another id": lambda body, headers: (body, changed(headers, "svix-id", "msg_0")),
        "other content": lambda body, headers: (body.replace(b"email.delivered", b"email.bounced"), headers),
    },
}
EACH = [(name, change) for name, more in FORGERIES.items() for change in [*ANYWHERE, *more]]


@pytest.mark.parametrize(("name", "change"), EACH)
def test_a_forged_webhook_is_refused(name: str, change: str, doubtful: Any, told: Any) -> None:
    """Anymail answers with an error, and nothing of it gets as far as the ledger; the genuine one does."""
    mark = doubtful(name)
    before = entry()
    genuine = WEBHOOKS[name]("delivered", ANN, mark)
    _, body, headers = genuine
    forge = {**ANYWHERE, **FORGERIES[name]}[change]
    assert told((name, *forge(body, headers))) == (
        401 if (name, change) == ("amazon_ses", "no password") else 400
    )
    assert entry() == before
    assert entry().status is Status.IN_DOUBT
    assert told(genuine) == 200
    assert entry().status is Status.SENT


@pytest.mark.parametrize("name", SIGNED)
def test_a_webhook_that_a_stranger_signed_is_refused(name: str, doubtful: Any, told: Any) -> None:
    """With the right password, and a key that is not the account's."""
    mark = doubtful(name)
    before = entry()
    assert told(WEBHOOKS[name]("delivered", ANN, mark, stranger=True)) == 400
    assert entry() == before


@pytest.mark.parametrize("name", SIGNED)
def test_a_signature_is_enough(name: str, doubtful: Any, told: Any, monkeypatch: Any) -> None:
    """Without ``WEBHOOK_SECRET`` the provider's own signature still keeps strangers out."""
    mark = doubtful(name)
    before = entry()
    monkeypatch.setitem(webhooks.SETTINGS, "WEBHOOK_SECRET", [])
    genuine, forged = (WEBHOOKS[name]("delivered", ANN, mark, stranger=stranger) for stranger in (False, True))
    assert told((*forged[:2], without(forged[2], "authorization"))) == 400
    assert entry() == before
    assert told((*genuine[:2], without(genuine[2], "authorization"))) == 200
    assert entry().status is Status.SENT


# -- Amazon SNS, whose signature Anymail does not verify -------------------------------------------------


CONFIRMED = """<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">
<ConfirmSubscriptionResult><SubscriptionArn>arn:aws:sns:us-east-1:123456789012:SES_Events:1</SubscriptionArn>
</ConfirmSubscriptionResult></ConfirmSubscriptionResponse>"""


def confirmations(api: API) -> list[str]:
    return [str(sent.body) for sent in api.requests if "ConfirmSubscription" in str(sent.body)]


@pytest.mark.parametrize(("change", "status"), [("no password", 401), ("wrong password", 400)])
def test_a_strangers_topic_is_not_subscribed(
    change: str, status: int, doubtful: Any, told: Any, settings: Any
) -> None:
    """Anybody can have SNS post here; without the secret in the URL nothing is confirmed, or heard."""
    mark = doubtful("amazon_ses")
    before = entry()
    with API((200, "<x/>")) as api:
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["endpoint_url"] = api.url
        _, body, headers = webhooks.sns("SubscriptionConfirmation", "You have chosen to subscribe")
        assert told(("amazon_ses", *ANYWHERE[change](body, headers))) == status
        _, body, headers = webhooks.amazon_ses("delivered", ANN, mark)
        assert told(("amazon_ses", *ANYWHERE[change](body, headers))) == status
    assert api.requests == []
    assert entry() == before


def test_a_subscription_with_the_secret_is_confirmed(doubtful: Any, told: Any, settings: Any) -> None:
    """By Anymail, once; what SNS says of itself is no event."""
    doubtful("amazon_ses")
    before = entry()
    with API((200, CONFIRMED, {"Content-Type": "text/xml"})) as api:
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["endpoint_url"] = api.url
        assert told(webhooks.sns("SubscriptionConfirmation", "You have chosen to subscribe")) == 200
        assert told(webhooks.sns("UnsubscribeConfirmation", "You have chosen to deactivate")) == 200
        validated = "Successfully validated SNS topic for Amazon SES event publishing."
        assert told(webhooks.sns("Notification", validated)) == 200
    assert len(confirmations(api)) == len(api.requests) == 1
    assert entry() == before


def test_a_subscription_without_any_secret_is_not_confirmed(
    doubtful: Any, told: Any, settings: Any, monkeypatch: Any
) -> None:
    """A project without ``WEBHOOK_SECRET`` is not subscribed to a stranger's topic either."""
    doubtful("amazon_ses")
    monkeypatch.setitem(webhooks.SETTINGS, "WEBHOOK_SECRET", [])
    with API((200, "<x/>")) as api:
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["endpoint_url"] = api.url
        with pytest.warns(match="insecure"):
            assert told(webhooks.sns("SubscriptionConfirmation", "You have chosen to subscribe")) == 400
    assert api.requests == []


# -- replayed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_replayed_webhook_changes_nothing(name: str, doubtful: Any, told: Any) -> None:
    """What was genuine once is known already, to the last field of the entry."""
    post = WEBHOOKS[name]("delivered", ANN, doubtful(name))
    assert told(post) == 200
    before = entry()
    for _ in range(2):
        assert told(post) == 200
    assert entry() == before
    assert entry().deliveries[0].events == (("delivered", AT),)


DAY = 86_400.0
OLD = [("resend", DAY, 400), ("resend", -DAY, 400), ("mailgun", DAY, 200), ("sendgrid", DAY, 200)]


@pytest.mark.parametrize(("name", "age", "status"), OLD)
def test_an_old_signature(name: str, age: float, status: int, doubtful: Any, told: Any) -> None:
    """Svix's is refused altogether; the others' may be late for good reason, and change nothing twice."""
    mark = doubtful(name)
    before = entry()
    assert told(WEBHOOKS[name]("delivered", ANN, mark, age=age)) == status
    if status == 400:
        assert entry() == before
        return
    settled = entry()
    assert settled.status is Status.SENT
    assert told(WEBHOOKS[name]("delivered", ANN, mark, age=age + DAY)) == 200
    assert entry() == settled


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_replay_proves_nothing_about_the_next_generation(name: str, use: Use, told: Any) -> None:
    """P2: it says that the first mail arrived; the second one, whose reply was lost, is another mail."""
    with API("ok") as api:
        use(name, api, ENCRYPTION_KEYS=[])
        receipt.apply((1, [ANN]), task_id="first")
        first = metadata(api, name)
        assert told(post := WEBHOOKS[name]("delivered", ANN, first)) == 200
        again = receipt.resend(1, [ANN], actor="ann", reason="asked for")
        api.script = ["drop_after_accept"]
        assert isinstance(receipt.apply((1, [ANN]), task_id=again.id).result, DeliveryInDoubt)
        second = metadata(api, name)
    before = entry()
    assert (before.generation, before.status) == (2, Status.IN_DOUBT)
    assert told(post) == 200
    assert entry() == before
    assert told(WEBHOOKS[name]("delivered", ANN, second)) == 200
    assert entry().status is Status.SENT


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_replay_proves_nothing_about_an_email_that_began_anew(
    name: str, doubtful: Any, told: Any, memory_ledger: Any, monkeypatch: Any
) -> None:
    """P2: purged long ago, sent once more: it has the same Message-ID and generation, and is another mail."""
    first = doubtful(name)
    memory_ledger.store._entries.clear()
    now = memory_ledger.store._clock
    monkeypatch.setattr(memory_ledger.store, "_clock", lambda: now() + timedelta(days=100))
    second = doubtful(name)
    before = entry()
    for kind in ("delivered", "accepted"):  # somebody opens the old one
        assert told(WEBHOOKS[name](kind, ANN, first)) == 200
    assert entry() == before
    assert told(WEBHOOKS[name]("delivered", ANN, second)) == 200
    assert entry().status is Status.SENT


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_mark_that_was_made_up_lets_nobody_in(name: str, doubtful: Any, told: Any) -> None:
    """Mailgun signs no content, others have a password alone: who can post has no other mark for all that."""
    mark = doubtful(name)
    before = entry()
    other = HandOverId(before.key, 1, 1, "<other@x>", before.begun_at)
    for made_up in (
        {**mark, marks.SIGNATURE: "0" * 43},
        {**mark, marks.SIGNATURE: ""},
        {**mark, marks.PLACE: mark[marks.PLACE].replace("1.1.", "1.2.")},
        {**mark, marks.PLACE: mark[marks.PLACE].replace(".w", ".e")},
        {**mark, marks.PLACE: "1.1"},
        {**mark, marks.KEY: "1:" + "0" * 64},
        {**mark, marks.KEY: ""},
        {**mark, marks.SIGNATURE: marks.write(other, True)[marks.SIGNATURE]},
        {key: value for key, value in mark.items() if key != marks.SIGNATURE},
        {**mark, marks.PLACE: ["1"]},
        {**mark, marks.KEY: None},
        {},
    ):
        assert told(WEBHOOKS[name]("delivered", ANN, made_up)) == 200
    assert entry() == before


def test_a_secret_of_before_counts_as_long_as_it_is_kept(doubtful: Any, told: Any, settings: Any) -> None:
    """``SECRET_KEY`` was changed while a doubt waited: its marks are good by ``SECRET_KEY_FALLBACKS`` alone."""
    mark = doubtful("postmark")
    before, old = entry(), settings.SECRET_KEY
    settings.SECRET_KEY = "another one, which is also at least fifty characters long"
    assert told(webhooks.postmark("delivered", ANN, mark)) == 200
    assert entry() == before
    settings.SECRET_KEY_FALLBACKS = [old]
    assert told(webhooks.postmark("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT


# -- about nobody ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEBHOOKS)
def test_an_unknown_key_is_answered_and_logged(
    name: str, doubtful: Any, told: Any, memory_ledger: Any, caplog: Any
) -> None:
    """An entry that was purged long ago: an error would have the provider tell it for days."""
    mark = doubtful(name)
    memory_ledger.store._entries.clear()
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


def test_an_older_generation_is_left_alone(doubtful: Any, told: Any) -> None:
    """A complaint about last year's mail says nothing about this year's."""
    mark = doubtful("postmark")
    before = entry()
    old = HandOverId(before.key, 0, 1, before.deliveries[0].message_id, before.begun_at)
    assert told(webhooks.postmark("complained", ANN, marks.write(old, True))) == 200
    assert entry() == before
    assert mark[marks.PLACE].startswith("1.1.")


# -- several in one post ---------------------------------------------------------------------------------


@pytest.fixture
def two_doubts(use: Use) -> dict[int, dict[str, str]]:
    """Two receipts whose replies were lost; the metadata that SendGrid has of each."""
    found = {}
    with API("drop_after_accept") as api:
        use("sendgrid", api)
        for order in (1, 2):
            assert isinstance(receipt.apply((order, [ANN])).result, DeliveryInDoubt)
            found[order] = metadata(api, "sendgrid")
    return found


def batch(two_doubts: dict[int, dict[str, str]]) -> Post:
    """Return a post about both, with others' events between them."""
    event = webhooks.sendgrid_event
    forged = {**two_doubts[2], marks.SIGNATURE: "0" * 43}
    unknown = marks.write(HandOverId("1:" + "0" * 64, 1, 1, "<gone@x>"), True)
    odd = {**event("delivered", ANN, {}), "event": "something new", "email": None}
    told = [
        event("delivered", ANN, two_doubts[1]),
        event("rejected", ANN, forged),
        event("delivered", ANN, unknown),
        event("delivered", BOB, {"order": "7"}),
        odd,
        event("delivered", ANN, two_doubts[2]),
    ]
    return webhooks.sign("sendgrid", told)


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
