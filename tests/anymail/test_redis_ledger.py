"""Provider keys and webhooks with the ledger in Redis: content is ciphertext while in doubt, and then gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as client
from celery import Celery
from django.core.mail import EmailMultiAlternatives

from celery_idempotent import IdempotentEmailTask, Status
from celery_idempotent.contrib.anymail.message_marks import Mark
from celery_idempotent.exceptions import DeliveryUnconfirmed
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.policy import Verdict
from celery_idempotent.ledger.provider_events import KINDS, Event
from celery_idempotent.mail import providers
from celery_idempotent.models import LogicalEmail
from celery_idempotent.stores import factory
from celery_idempotent.testing import race
from tests.anymail.conftest import KEY, Use
from tests.anymail.receipts import ANN
from tests.anymail.sealed_mail import gone, unreadable
from tests.anymail.webhooks import AT, WEBHOOKS
from tests.support.held_doubts import past_deadline
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.providers import API, KeyedSMTP
from tests.support.redis_contents import dump
from tests.support.servers import Redis

app = Celery("esp-redis", broker="memory://", backend="cache+memory://", set_as_current=False)
SECRETS = ["Your confirmation", "the secret code is", ANN, "<p>hidden"]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="esp-redis")
def confirm(order: int) -> str:
    message = EmailMultiAlternatives("Your confirmation", f"the secret code is {order * 7}", to=[ANN])
    message.attach_alternative("<p>hidden</p>", "text/html")
    message.send()
    return f"sent {order}"


def entry() -> Any:
    return confirm.entry_for(1)


@pytest.fixture
def connected(redis: Redis, keep_ledger_in: Callable[[str], None], db: None) -> Iterator[Any]:
    """A client of the empty Redis that the ledger is in, with its mirror in the test's database."""
    keep_ledger_in("redis")
    with client.Redis.from_url(redis.url) as connected:
        yield connected


class PeekingAPI(API):
    """Looks into the ledger while it has the request: what is there during the hand-over."""

    def __init__(self, connected: Any, *script: Any) -> None:
        super().__init__(*script)
        self.connected = connected
        self.seen: list[bytes] = []

    def take(self, sent: Any) -> Any:
        self.seen.append(dump(self.connected))
        return super().take(sent)


def test_a_reply_of_an_api_that_is_lost(connected: Any, use: Use) -> None:
    """During the hand-over and the doubt Redis has ciphertext; the next task ends it, and nothing is left."""
    with PeekingAPI(connected, "drop_after_accept") as api:
        use("resend", api)
        assert isinstance(confirm.apply((1,)).result, DeliveryUnconfirmed)
        assert entry().status is Status.IN_DOUBT
        for text in (*api.seen, dump(connected)):
            unreadable(text, *SECRETS)
        api.script = ["ok"]
        assert confirm.apply((1,)).get() == "sent 1"
    assert len(api.accepted) == 1
    assert len(api.requests) == len(api.seen) == 4
    assert len({request.headers[providers.API["Resend"].header.lower()] for request in api.requests}) == 1
    assert entry().status is Status.SENT
    gone(dump(connected), *SECRETS)


def test_a_reply_of_an_smtp_server_that_is_lost(connected: Any, settings: Any) -> None:
    """The same with the header of Resend's SMTP relay."""
    settings.CELERY_IDEMPOTENT |= {"PROVIDER": "resend", "ENCRYPTION_KEYS": [KEY]}
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(confirm.apply((1,)).result, DeliveryUnconfirmed)
        assert entry().status is Status.IN_DOUBT
        unreadable(dump(connected), "Your confirmation", ANN)
        server.script["dot"] = "250 ok"
        assert confirm.apply((1,)).get() == "sent 1"
    assert len(server.accepted) == 1
    assert len(set(server.keys)) == 1
    assert server.mismatches == 0
    gone(dump(connected), *SECRETS)


@pytest.mark.parametrize("answer", [(422, {"message": "no"}), (429, {"message": "later"}), "ok"])
def test_a_reply_that_comes_leaves_nothing_either(answer: Any, connected: Any, use: Use) -> None:
    """Accepted, refused for good or for now: sealed while the request was open, and gone with its answer."""
    with PeekingAPI(connected, answer) as api:
        use("resend", api)
        confirm.apply((1,))
    for text in api.seen:
        unreadable(text, *SECRETS)
    assert entry().attempts == 1
    gone(dump(connected), *SECRETS)


@pytest.fixture
def mark(connected: Any, use: Use) -> dict[str, str]:
    """The mark of a mail whose reply Resend did not give, with its content sealed in the ledger."""
    with API("drop_after_accept") as api:
        use("resend", api)
        confirm.apply((1,))
    unreadable(dump(connected), *SECRETS)
    row = LogicalEmail.objects.get()
    assert (row.status, row.sealed) == (Status.IN_DOUBT, ""), "the mirror never has the content"
    return dict(json.loads(api.requests[-1].body["headers"]["X-Metadata"]))


def test_a_webhook_ends_it_as_well(connected: Any, mark: dict[str, str], told: Any) -> None:
    """Redis and its mirror have the end and the event, and no content."""
    assert told(WEBHOOKS["resend"]("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT
    assert entry().deliveries[0].events == (("delivered", AT),)
    gone(dump(connected), *SECRETS)
    row = LogicalEmail.objects.get()
    assert row.status == Status.SENT
    assert [kind for kind, _ in row.deliveries.get().events] == ["delivered"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("verdict", [Verdict.SENT, Verdict.NOT_SENT])
def test_an_operators_word_ends_it_as_well(connected: Any, mark: dict[str, str], verdict: Verdict) -> None:
    """Whichever: what was kept to ask the provider is not needed any more."""
    found = past_deadline(factory.get_ledger().store, entry())
    Operator(factory.get_ledger(), "ann", "the provider's log").resolve(found, verdict)
    assert entry().status is not Status.IN_DOUBT
    gone(dump(connected), *SECRETS)


def test_webhooks_that_come_at_once_are_all_kept(connected: Any, mark: dict[str, str]) -> None:
    """Providers post from many machines: each event counts, and the doubt ends once."""
    read = Mark.read(mark)
    assert read is not None
    ledger, who = factory.get_ledger(), entry().deliveries[0].recipient.digest
    kinds = sorted(KINDS - {"rejected", "failed"})

    def hear(number: int) -> Any:
        kind = kinds[number % len(kinds)]
        return ledger.hear(read.key, Event(kind, AT, read.generation, read.message, read.attempt, who))

    race(hear, 2 * len(kinds))
    assert {kind for kind, _ in entry().deliveries[0].events} == set(kinds)
    assert entry().status is Status.SENT
    assert len([one for one in entry().audit if one.action.startswith("proven")]) == 1
