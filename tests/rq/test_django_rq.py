"""django-rq: its decorator over ours, its job class by settings, its worker by ``manage.py rqworker``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.rq import django_rq_questions
from tests.support.rq import RQShop, clean, opened

pytestmark = pytest.mark.process

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.rq.settings"}


@pytest.fixture(scope="module")
def django_process(tmp_path_factory: Any) -> Iterator[RQShop]:
    """A project with django-rq and one worker."""
    project = opened(tmp_path_factory.mktemp("django-rq"), app="tests.rq.django_rq_app", **SETTINGS)
    with project as shop, shop.managed_worker("default", "--with-scheduler"):
        yield shop


@pytest.fixture
def shop(django_process: RQShop) -> RQShop:
    """The module's shop, emptied."""
    return clean(django_process)


def test_a_duplicate_gets_the_originals_result(shop: RQShop) -> None:
    """P3: ``delay`` and a queue's ``enqueue`` alike."""
    values = shop.ask(django_rq_questions.call_in_all_ways, 1)
    assert values == [[["finished", "sent 1"]] * 3, "sent"]
    assert shop.copies() == 1


def test_the_job_class_of_the_settings(shop: RQShop) -> None:
    """The key travels in meta from the enqueue on, and P7: nothing that RQ shows or logs has the address."""
    shown, key, error = shop.ask(django_rq_questions.read_a_job, 2, "secret.person@example.com")
    assert shown[0] == "IdempotentJob"
    assert shown[2]["celery_idempotent"]["key"] == key
    assert error == "KeyFieldError"
    assert "s***@example.com" in shown[1]
    assert "secret.person" not in str(shown) + (shop.directory / "worker.log").read_text()


@pytest.mark.parametrize(
    ("point", "expected", "status"),
    [
        ("after-record", ["finished", "sent {}"], "sent"),
        ("after-complete", ["finished", "sent {}"], "sent"),
        ("after-dot", ["failed", "DeliveryInDoubt"], "in_doubt"),
    ],
)
def test_a_killed_work_horse(shop: RQShop, point: str, expected: list[str], status: str) -> None:
    """P1, P2: resumed by the decorator's ``retry``, replayed, or known as doubt; one copy each."""
    order = {"after-record": 3, "after-complete": 4, "after-dot": 5}[point]
    shop.crash_at(point)
    values = shop.ask(django_rq_questions.run_and_look, order)
    shop.crashed()
    assert values == [[expected[0], expected[1].format(order)], status]
    assert shop.copies() == 1


def test_a_call_in_a_transaction_that_is_rolled_back(shop: RQShop) -> None:
    """django-rq enqueues after the commit: nothing is sent for what did not happen, and nothing is claimed."""
    values = shop.ask(django_rq_questions.roll_back_and_commit, 6, 7)
    assert values == [0, None]
    assert shop.copies() == 1
