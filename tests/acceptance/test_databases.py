"""P5 and P6 on servers: the ledger's own connection, and a ledger that is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import questions
from tests.support.servers import MariaDB, Postgres
from tests.support.shop import Shop, opened

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", params=[Postgres, MariaDB], ids=["postgres", "mariadb"])
def place_process(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Any, Shop]]:
    """A server of its own, because it is stopped here, and a worker on it."""
    with request.param() as server:
        directory = tmp_path_factory.mktemp("shop")
        (directory / "results").mkdir()
        # Celery's own results elsewhere: it is the ledger's outage that is looked at.
        results = f"file://{directory}/results"
        # Longer than a server takes to end: the hand-over that waits for it is not to be in doubt by then.
        more = {"TEST_RESULTS": results, "TEST_SEND_TIMEOUT": "10"}
        with opened(directory, server.database, "-c", "2", **more) as shop:
            yield server, shop


@pytest.fixture
def place(place_process: tuple[Any, Shop]) -> tuple[Any, Shop]:
    """The module's server, which runs, and the worker on it, its mail server as at first."""
    server, shop = place_process
    shop.server.reset()
    if server.process is None:
        server.start()
    return server, shop


def strike(server: Any, shop: Shop, step: str, order: int, task_id: str, said: str) -> None:
    """Stop the server while the task of ``order`` is held at ``step``, and wait for what the log says."""
    before, mark = shop.server.count(step), len(shop.log())
    shop.server.hold(step)
    shop.ask(questions.publish, "confirm", order, task_id=task_id)
    shop.server.reached(step, before + 1)
    server.stop()
    shop.server.release(step)
    shop.said(said, since=mark)


def test_a_rollback_of_the_body_undoes_no_record(place: Any) -> None:
    """P5, with no extra configuration: sent inside atomic(), rolled back, retried, and not sent again."""
    _, shop = place
    value, status, attempts = shop.ask(questions.count_attempts, "in_transaction", 1)
    assert (value, status, attempts) == ("committed", "sent", 1)
    assert shop.copies() == 1


def test_a_kill_inside_a_transaction_undoes_no_record(place: Any) -> None:
    """P5: nobody is left who could write it anew. The server took the mail, so the redelivery does not send."""
    _, shop = place
    shop.crash_at("after-record")
    shop.ask(questions.publish, "in_transaction", 5, task_id="killed")
    assert shop.ask(questions.wait_for_result, "killed") == "committed"
    shop.crashed()
    assert shop.copies() == 1


def test_a_ledger_that_is_down_sends_nothing_and_loses_nothing(place: Any) -> None:
    """P6: stopped right before the write-ahead, back a little later; the task sends then, once."""
    server, shop = place
    strike(server, shop, "data", 2, "patient", "does not answer")
    assert shop.copies() == 0
    server.start()
    assert shop.ask(questions.wait_for_result, "patient") == {"order": 2, "by": "patient"}
    assert shop.copies() == 1


def test_a_ledger_that_goes_down_after_acceptance(place: Any) -> None:
    """P6: the outcome is offered in-process until the ledger takes it; nothing is sent again."""
    server, shop = place
    strike(server, shop, "dot", 3, "late", "trying again")
    server.start()
    assert shop.ask(questions.wait_for_result, "late") == {"order": 3, "by": "late"}
    assert shop.copies() == 1
