"""A doubt about the first of two messages that a webhook or an operator ends: both arrive, each once."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import doubt_questions, outbox_questions, questions
from tests.anymail.webhooks import postmark
from tests.support.providers import API
from tests.support.shop import Shop, opened, sqlite
from tests.support.worker import wait_for

pytestmark = pytest.mark.process

orders = itertools.count(1)


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
        "TEST_URLCONF": "tests.urls",
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


def end_doubt(shop: Shop, how: str, api: API, order: int) -> None:
    """End the doubt about the newest message."""
    if how == "operator":
        shop.ask(doubt_questions.resolve, order)
    else:
        _, body, headers = postmark("delivered", "ann@example.com", api.accepted[-1].body["Metadata"])
        shop.ask(doubt_questions.post_to_the_webhook, body.decode(), headers)


@pytest.mark.parametrize("how", ["webhook", "operator"])
def test_a_kill_in_the_first_hand_over_and_a_redelivery_after_the_proof(shop: Shop, api: API, how: str) -> None:
    """P1, P2: the broker's redelivery comes when the email is sent already, and finishes the body all the same.

    It is stopped in front of its claim until then. Another task's duplicate replays meanwhile.
    """
    order = next(orders)
    shop.crash_at("after-250")
    task_id = shop.ask(questions.publish, "pair", order)
    shop.crashed()
    shop.pause_at("before-claim")
    (pid,) = wait_for(shop.paused, 60, shop.logs)
    try:
        shop.ask(doubt_questions.wait_for_the_deadline, order)
        end_doubt(shop, how, api, order)
        state = shop.ask(doubt_questions.look, order)
        assert state == ["sent", True, None, ["accepted"]]
        assert shop.ask(questions.run, "pair", order) is None
        assert subjects(api, order) == [f"The first of {order}"]
    finally:
        os.kill(pid, signal.SIGCONT)
    value = {"order": order, "by": task_id}
    assert shop.ask(questions.wait_for_result, task_id) == value, shop.logs()
    assert shop.ask(doubt_questions.look, order) == ["sent", False, value, ["accepted", "accepted"]]
    assert subjects(api, order) == [f"The first of {order}", f"The second of {order}"]
    assert shop.ask(questions.run, "pair", order) == value, "from now on, duplicates get it"


def test_the_relay_publishes_it_until_the_body_is_finished(shop: Shop, api: API) -> None:
    """P2: the task has ended as in doubt; the proof has its message published again, and then its row goes."""
    order = next(orders)
    api.script = ["drop_after_accept", "ok"]
    task_id = shop.ask(outbox_questions.enqueue_pair, order)
    shop.ask(outbox_questions.relay)
    assert shop.ask(outbox_questions.find_state_of_pair, task_id) == [1, "FAILURE"], (
        "held: there is nothing to be published"
    )
    end_doubt(shop, "webhook", api, order)
    shop.ask(outbox_questions.relay)
    value = {"order": order, "by": task_id}
    state = ["sent", False, value, ["accepted", "accepted"]]
    wait_for(lambda: shop.ask(doubt_questions.look, order) == state, 60, shop.logs)
    wait_for(lambda: shop.ask(outbox_questions.count_waiting) == 0, 60, shop.logs)
    shop.ask(outbox_questions.relay)
    assert shop.ask(questions.wait_for_result, task_id) == value
    assert subjects(api, order) == [f"The first of {order}", f"The second of {order}"]
