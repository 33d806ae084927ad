"""Provider keys and webhooks with the ledger in Redis: content is ciphertext while in doubt, and then gone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as client
from celery import Celery
from cryptography.fernet import Fernet
from django.core.mail import EmailMultiAlternatives

from celery_idempotent import IdempotentEmailTask, Status, wiring
from celery_idempotent.contrib.anymail import marks
from celery_idempotent.core.errors import DeliveryUnconfirmed
from celery_idempotent.core.events import KINDS, Event
from celery_idempotent.core.interventions import Operator
from celery_idempotent.core.outcomes import Verdict
from celery_idempotent.mail.providers import RESEND
from celery_idempotent.models import LogicalEmail
from celery_idempotent.testing import race
from tests.esp.conftest import KEY
from tests.esp.receipts import ANN
from tests.esp.webhooks import AT, WEBHOOKS
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.peeking import TOKEN, dump, shows
from tests.support.providers import API, KeyedSMTP
from tests.support.servers import Redis
from tests.support.shop import Shop, opened, sqlite
from tests.support.worker import wait_for

app = Celery("esp-redis", broker="memory://", backend="cache+memory://", set_as_current=False)
SECRETS = ["Your confirmation", "the secret code is", ANN, "<p>hidden"]
Use = Callable[..., None]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="esp-redis")
def confirm(order: int) -> str:
    message = EmailMultiAlternatives("Your confirmation", f"the secret code is {order * 7}", to=[ANN])
    message.attach_alternative("<p>hidden</p>", "text/html")
    message.send()
    return f"sent {order}"


def entry() -> Any:
    return confirm.entry_for(1)


@pytest.fixture
def connected(redis: Redis, settings: Any, db: None) -> Iterator[Any]:
    """A client of the empty Redis that the ledger is in, with its mirror in the test's database."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": redis.url}
    for cache in (wiring._ledger, wiring._mirror):
        cache.cache_clear()
    with client.Redis.from_url(redis.url) as connected:
        connected.flushall()
        yield connected
    for cache in (wiring._ledger, wiring._mirror):
        cache.cache_clear()


def unreadable(text: bytes, *secrets: str) -> None:
    """Assert that ``text`` has one sealed content, which has the ``secrets``, and shows none of them."""
    (token,) = set(TOKEN.findall(text))
    content = Fernet(KEY).decrypt(token).decode()
    for secret in secrets:
        assert secret in content, "the test would look for the wrong words"
        assert not shows(text, secret)


def gone(text: bytes, *secrets: str) -> None:
    """Assert that ``text`` has no sealed content any more, and nothing of the ``secrets`` in any form."""
    assert not TOKEN.findall(text)
    assert not [secret for secret in secrets if shows(text, secret)]


# -- in this process -------------------------------------------------------------------------------------


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
    assert len({request.headers[RESEND.header.lower()] for request in api.requests}) == 1
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


@pytest.mark.urls("tests.urls")
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
    Operator(wiring.get_ledger().store, "ann", "the provider's log").resolve(entry(), verdict)
    assert entry().status is not Status.IN_DOUBT
    gone(dump(connected), *SECRETS)


def test_webhooks_that_come_at_once_are_all_kept(connected: Any, mark: dict[str, str]) -> None:
    """Providers post from many machines: each event counts, and the doubt ends once."""
    read = marks.read(mark)
    assert read is not None
    ledger, who = wiring.get_ledger(), entry().deliveries[0].recipient.digest
    kinds = sorted(KINDS - {"rejected", "failed"})

    def hear(number: int) -> Any:
        kind = kinds[number % len(kinds)]
        return ledger.hear(read.key, Event(kind, AT, read.generation, read.message, read.attempt, who))

    race(hear, 2 * len(kinds))
    assert {kind for kind, _ in entry().deliveries[0].events} == set(kinds)
    assert entry().status is Status.SENT
    assert len([one for one in entry().audit if one.action.startswith("proven")]) == 1


# -- in a worker, until the provider answers -------------------------------------------------------------


class Provider:
    """Resend, as a test has to do with it, whichever way mail comes to it."""

    def __init__(self, server: API | KeyedSMTP) -> None:
        self.server = server

    def lose(self) -> None:
        """Take what is new from now on, and say nothing."""
        if isinstance(self.server, API):
            self.server.script = ["drop_after_accept"]
        else:
            self.server.script["dot"] = DROP_AFTER_ACCEPT

    def answer(self) -> None:
        """Say what has become of it from now on."""
        if isinstance(self.server, API):
            self.server.script = ["ok"]
        else:
            self.server.script["dot"] = "250 ok"

    def keys(self) -> list[str | None]:
        """Return the keys under which something was offered."""
        if isinstance(self.server, API):
            return [sent.headers.get("idempotency-key") for sent in self.server.requests]
        return list(self.server.keys)

    def copies(self) -> int:
        return len(self.server.accepted)


@pytest.fixture(scope="module", params=["smtp", "api"])
def project(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Shop, Provider, Any]]:
    """A project with its ledger in a Redis of its own, that sends through Resend, and a prefork worker."""
    directory = tmp_path_factory.mktemp(f"redis-{request.param}")
    smtp = KeyedSMTP()  # `opened` begins it
    with API() as api, Redis() as ledger, client.Redis.from_url(ledger.url) as connected:
        conf = {"LEDGER": ledger.url, "ENCRYPTION_KEYS": [KEY], "PROVIDER": "resend"}
        if request.param == "api":
            conf |= {"PROVIDER": "", "EMAIL_BACKEND": "anymail.backends.resend.EmailBackend"}
        more = {
            "TEST_IDEMPOTENT": json.dumps(conf),
            "TEST_ANYMAIL": json.dumps({"RESEND_API_URL": api.url, "RESEND_API_KEY": "re_key"}),
            "NO_PROXY": "127.0.0.1",
        }
        with opened(directory, sqlite(directory), "-c", "2", mail=smtp, **more) as shop:
            yield shop, Provider(api if request.param == "api" else smtp), connected


orders = itertools.count(1)
IN_REDIS = ["Your order", ANN]


def holds(connected: Any, status: str) -> Callable[[], bool]:
    return lambda: f'"s":"{status}"'.encode() in dump(connected)


def test_a_doubt_ends_by_itself_as_soon_as_the_provider_answers(project: Any) -> None:
    """No one does anything: one copy, SENT, one key; in the meantime nobody can read the mail in Redis."""
    shop, provider, connected = project
    order = next(orders)
    connected.flushall()
    before, offered = provider.copies(), len(provider.keys())
    provider.lose()
    task_id = shop.ask(f"answer(confirm.delay({order}).id)")
    wait_for(lambda: len(provider.keys()) - offered >= 4, 60, shop.logs)  # the task has come back at least once
    wait_for(holds(connected, "in_doubt"), 60, shop.logs)
    text = dump(connected)
    unreadable(text, *IN_REDIS)
    provider.answer()
    wait_for(holds(connected, "sent"), 90, shop.logs)
    gone(dump(connected), *IN_REDIS)
    assert provider.copies() == before + 1
    assert len(set(provider.keys()[offered:])) == 1
    code = f"from celery.result import AsyncResult; answer(AsyncResult({task_id!r}, app=app).get(timeout=60))"
    assert shop.ask(code) == {"order": order, "by": task_id}


def test_a_process_that_dies_in_the_hand_over_leaves_ciphertext(project: Any) -> None:
    """SIGKILL right after the write-ahead: what it left is sealed, and the redelivered task ends it."""
    shop, provider, connected = project
    order = next(orders)
    connected.flushall()
    before = provider.copies()
    provider.lose()  # so that the state can be looked at for as long as that takes
    shop.crash_at("after-write-ahead")
    shop.ask(f"answer(confirm.delay({order}).id)")
    shop.crashed()
    unreadable(dump(connected), *IN_REDIS)
    provider.answer()
    wait_for(holds(connected, "sent"), 90, shop.logs)
    gone(dump(connected), *IN_REDIS)
    assert provider.copies() == before + 1
