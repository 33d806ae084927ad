"""A worker with its ledger in Redis: a doubt ends by itself, and until then nobody can read the mail."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as client

from tests.acceptance import questions
from tests.anymail.conftest import KEY
from tests.anymail.receipts import ANN
from tests.anymail.sealed_mail import gone, unreadable
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.providers import API, KeyedSMTP
from tests.support.redis_contents import dump
from tests.support.servers import Redis
from tests.support.shop import Shop, opened, sqlite
from tests.support.worker import wait_for

pytestmark = pytest.mark.process


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
def process(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Shop, Provider, Any]]:
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
            "TEST_URLCONF": "tests.urls",
        }
        with opened(directory, sqlite(directory), "-c", "2", mail=smtp, **more) as shop:
            yield shop, Provider(api if request.param == "api" else smtp), connected


orders = itertools.count(1)
IN_REDIS = ["Your order", ANN]


def holds(connected: Any, *statuses: str) -> Callable[[], bool]:
    return lambda: any(f'"s":"{status}"'.encode() in dump(connected) for status in statuses)


@pytest.fixture
def project(process: tuple[Shop, Provider, Any]) -> Iterator[tuple[Shop, Provider, Any]]:
    """The module's project, its ledger empty; what a test leaves in doubt ends before the next one begins."""
    shop, provider, connected = process
    connected.flushall()
    yield process
    shop.forget()
    provider.answer()
    unsettled = holds(connected, "claimed", "sending", "in_doubt")
    wait_for(lambda: not unsettled(), 90, shop.logs)


def test_a_doubt_ends_by_itself_as_soon_as_the_provider_answers(project: Any) -> None:
    """No one does anything: one copy, SENT, one key; in the meantime nobody can read the mail in Redis."""
    shop, provider, connected = project
    order = next(orders)
    before, offered = provider.copies(), len(provider.keys())
    provider.lose()
    task_id = shop.ask(questions.publish, "confirm", order)
    wait_for(lambda: len(provider.keys()) - offered >= 4, 60, shop.logs)  # the task has come back at least once
    wait_for(holds(connected, "in_doubt"), 60, shop.logs)
    text = dump(connected)
    unreadable(text, *IN_REDIS)
    provider.answer()
    wait_for(holds(connected, "sent"), 90, shop.logs)
    gone(dump(connected), *IN_REDIS)
    assert provider.copies() == before + 1
    assert len(set(provider.keys()[offered:])) == 1
    assert shop.ask(questions.wait_for_result, task_id) == {"order": order, "by": task_id}


def test_a_process_that_dies_in_the_hand_over_leaves_ciphertext(project: Any) -> None:
    """SIGKILL right after the write-ahead: what it left is sealed, and the redelivered task ends it."""
    shop, provider, connected = project
    order = next(orders)
    before = provider.copies()
    provider.lose()  # so that the state can be looked at for as long as that takes
    shop.crash_at("after-write-ahead")
    shop.ask(questions.publish, "confirm", order)
    shop.crashed()
    unreadable(dump(connected), *IN_REDIS)
    provider.answer()
    wait_for(holds(connected, "sent"), 90, shop.logs)
    gone(dump(connected), *IN_REDIS)
    assert provider.copies() == before + 1
