"""A project moves from one queue to the other while events go on coming in: the same key, the same email."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rq import moving_questions
from tests.support.rq import RQShop, RQWorker, clean, opened
from tests.support.worker import Worker

pytestmark = pytest.mark.process

PAGE = Path(__file__).parents[2] / "docs/how-to/move-between-queues.md"
MODULE = Path(__file__).with_name("moving.py")


@pytest.fixture(scope="module")
def moving_process(tmp_path_factory: Any) -> Iterator[RQShop]:
    """A project that has both queues on one Redis, and no worker yet."""
    ledger = '{"MESSAGE_ID_DOMAIN": "shop.example.com", "LEDGER": "database"}'
    place = tmp_path_factory.mktemp("moving")
    with opened(place, app="tests.rq.moving", TEST_IDEMPOTENT=ledger) as shop:
        yield shop


@pytest.fixture
def shop(moving_process: RQShop) -> RQShop:
    """The module's shop, emptied."""
    return clean(moving_process)


@contextmanager
def celery_worker(shop: RQShop) -> Iterator[None]:
    """The project's Celery worker."""
    log = shop.directory / "celery.log"
    with Worker("tests.acceptance.app", shop.environment, log, "-c", "2", "-I", "tests.rq.moving"):
        yield


def rq_worker(shop: RQShop) -> RQWorker:
    """The project's RQ worker."""
    return shop.worker_of("emails")


def test_the_page_shows_the_code_that_is_tested() -> None:
    """What the how-to tells to write is what runs here."""
    tested = re.search(r"# -- the how-to begins\n(.*?)\n+# -- the how-to ends", MODULE.read_text(), re.S)
    assert tested
    assert f"```python\n{tested[1]}\n```" in PAGE.read_text()


def test_the_key_is_the_same_in_both_queues(shop: RQShop) -> None:
    """Same ``email_type`` and key fields; what the functions are called does not matter."""
    assert shop.ask(moving_questions.find_keys, 1) == [shop.ask(moving_questions.find_key, 1)] * 2


def test_from_rq_to_celery(shop: RQShop) -> None:
    """Jobs wait in RQ while Celery already gets the same events: one copy, and the old jobs get its result."""
    shop.ask(moving_questions.leave_in_rq, [11, 12, 13])
    with celery_worker(shop):
        new = shop.ask(moving_questions.run_in_celery, [11, 12, 14])
    assert new == [["finished", f"confirmed {n}"] for n in (11, 12, 14)]
    assert shop.copies() == 3
    with rq_worker(shop):
        old = shop.ask(moving_questions.wait_for_rq, [11, 12, 13])
    assert old == [["finished", f"confirmed {n}"] for n in (11, 12, 13)]
    assert shop.copies() == 4


def test_from_celery_to_rq(shop: RQShop) -> None:
    """The reverse: tasks wait in Celery's queue while RQ already gets the same events."""
    shop.ask(moving_questions.leave_in_celery, [21, 22, 23])
    with rq_worker(shop):
        new = shop.ask(moving_questions.run_in_rq, [21, 22, 24])
    assert new == [["finished", f"confirmed {n}"] for n in (21, 22, 24)]
    assert shop.copies() == 3
    with celery_worker(shop):
        old = shop.ask(moving_questions.wait_for_celery, [21, 22, 23])
    assert old == [["finished", f"confirmed {n}"] for n in (21, 22, 23)]
    assert shop.copies() == 4


def test_an_email_in_doubt_stays_so_in_the_other_queue(shop: RQShop) -> None:
    """P1: changing the queue is no second chance."""
    shop.server.script["dot"] = "DROP_AFTER_ACCEPT"
    with celery_worker(shop):
        failed = shop.ask(moving_questions.find_error_in_celery, 31)
    clean(shop)
    with rq_worker(shop):
        moved = shop.ask(moving_questions.run_in_rq, [31])[0]
    assert (failed, moved) == ("DeliveryInDoubt", ["failed", "DeliveryInDoubt"])
    assert shop.copies() == 0


@pytest.mark.parametrize(
    "setting", [{"NAMESPACE": "other"}, {"RECIPIENT_SALT": "other"}, {"LEDGER": "memory://"}]
)
def test_what_has_to_be_the_same(shop: RQShop, setting: dict[str, str]) -> None:
    """With another one of these, the other queue does not know the email, or not who has got it."""
    shop.ask(moving_questions.call, 41)
    assert shop.ask(moving_questions.is_known, 41, setting) == [True, False]
