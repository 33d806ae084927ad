"""A doubt about the first of two messages that a webhook or an operator ends: both arrive, each once."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.esp.webhooks import postmark
from tests.support.providers import API
from tests.support.shop import Shop, opened, sqlite
from tests.support.worker import wait_for

pytestmark = pytest.mark.process

orders = itertools.count(1)

STATE = """
entry = pair.entry_for({order})
answer([entry.status, entry.unfinished, entry.result, [d.status for d in entry.deliveries]])
"""
DEADLINE = """
import time
from celery_idempotent.stores.factory import get_ledger
store = get_ledger(app).store
while (found := store.get(pair.key_for({order}))).now <= found.entry.deadline:
    time.sleep(0.1)
"""
WEBHOOK = """
from django.conf import settings
from django.test import Client
settings.ALLOWED_HOSTS = ["testserver"]
path, kind = "/anymail/postmark/tracking/", "application/json"
posted = Client().post(path, {body!r}, content_type=kind, headers={headers!r})
assert posted.status_code == 200, posted
"""
OPERATOR = """
from django.core.management import call_command
call_command("idempotency", "resolve", pair.key_for({order}), "--sent", "--reason", "it is in Postmark's log")
"""


@pytest.fixture(scope="module")
def api() -> Iterator[API]:
    """Postmark, as far as it is needed."""
    with API() as api:
        yield api


@pytest.fixture(scope="module")
def pairs_process(api: API, tmp_path_factory: Any) -> Iterator[Shop]:
    """A project that sends through Postmark, and a prefork worker."""
    directory = tmp_path_factory.mktemp("pairs")
    anymail = {
        "POSTMARK_API_URL": api.url,
        "POSTMARK_SERVER_TOKEN": "token",
        "WEBHOOK_SECRET": "user:password",
    }
    more = {
        "TEST_ANYMAIL": json.dumps(anymail),
        "TEST_IDEMPOTENT": json.dumps({"EMAIL_BACKEND": "anymail.backends.postmark.EmailBackend"}),
        "TEST_SEND_TIMEOUT": "10",
        "NO_PROXY": "127.0.0.1",
    }
    with opened(directory, sqlite(directory), "-c", "2", **more) as shop:
        yield shop


@pytest.fixture
def shop(pairs_process: Shop, api: API) -> Shop:
    """The module's project, its notes forgotten, and Postmark obliging."""
    api.script = ["ok"]
    pairs_process.forget()
    return pairs_process


def subjects(api: API, order: int) -> list[str]:
    """What Postmark took."""
    return [sent.body["Subject"] for sent in api.accepted if sent.body["Subject"].endswith(f" {order}")]


def ending(how: str, api: API, order: int) -> str:
    """The code that ends the doubt about the newest message."""
    if how == "operator":
        return OPERATOR.format(order=order)
    _, body, headers = postmark("delivered", "ann@example.com", api.accepted[-1].body["Metadata"])
    return WEBHOOK.format(body=body.decode(), headers=headers)


@pytest.mark.parametrize("how", ["webhook", "operator"])
def test_a_kill_in_the_first_hand_over_and_a_redelivery_after_the_proof(shop: Shop, api: API, how: str) -> None:
    """P1, P2: the broker's redelivery comes when the email is sent already, and finishes the body all the same.

    It is stopped in front of its claim until then. Another task's duplicate replays meanwhile.
    """
    order = next(orders)
    shop.crash_at("after-250")
    task_id = shop.ask(f"answer(pair.delay({order}).id)")
    shop.crashed()
    shop.pause_at("before-claim")
    (pid,) = wait_for(shop.paused, 60, shop.logs)
    try:
        state = shop.ask(DEADLINE.format(order=order) + ending(how, api, order) + STATE.format(order=order))
        assert state == ["sent", True, None, ["accepted"]]
        assert shop.ask(f"answer(pair.delay({order}).get(timeout=60))") is None
        assert subjects(api, order) == [f"The first of {order}"]
    finally:
        os.kill(pid, signal.SIGCONT)
    value = {"order": order, "by": task_id}
    assert shop.ask(f"answer(pair.AsyncResult({task_id!r}).get(timeout=60))") == value, shop.logs()
    assert shop.ask(STATE.format(order=order)) == ["sent", False, value, ["accepted", "accepted"]]
    assert subjects(api, order) == [f"The first of {order}", f"The second of {order}"]
    assert shop.ask(f"answer(pair.delay({order}).get(timeout=60))") == value, "from now on, duplicates get it"


RELAY = """
from django.utils import timezone
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Relay
OutboxMessage.objects.update(due_at=timezone.now())
Relay(app).once()
"""


def test_the_relay_publishes_it_until_the_body_is_finished(shop: Shop, api: API) -> None:
    """P2: the task has ended as in doubt; the proof has its message published again, and then its row goes."""
    order = next(orders)
    api.script = ["drop_after_accept", "ok"]
    task_id = shop.ask(f"""
result = pair.enqueue({order})
result.get(timeout=60, propagate=False)
answer(result.id)
""")
    waiting = f"answer([OutboxMessage.objects.count(), pair.AsyncResult({task_id!r}).status])"
    assert shop.ask(RELAY + waiting) == [1, "FAILURE"], "held: there is nothing to be published"
    shop.ask(ending("webhook", api, order) + RELAY)
    value = {"order": order, "by": task_id}
    state = ["sent", False, value, ["accepted", "accepted"]]
    wait_for(lambda: shop.ask(STATE.format(order=order)) == state, 60, shop.logs)
    left = "from celery_idempotent.models import OutboxMessage\nanswer(OutboxMessage.objects.count())"
    wait_for(lambda: shop.ask(left) == 0, 60, shop.logs)
    assert shop.ask(RELAY + f"answer(pair.AsyncResult({task_id!r}).get(timeout=60))") == value
    assert subjects(api, order) == [f"The first of {order}", f"The second of {order}"]
