"""P5 and P6 on servers: the ledger's own connection, and a ledger that is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.servers import MariaDB, Postgres
from tests.support.shop import Shop, opened
from tests.support.worker import wait_for


@pytest.fixture(scope="module", params=[Postgres, MariaDB], ids=["postgres", "mariadb"])
def place(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Any, Shop]]:
    """A server of its own, because it is stopped here, and a worker on it."""
    with request.param() as server:
        directory = tmp_path_factory.mktemp("shop")
        (directory / "results").mkdir()
        # Celery's own results elsewhere: it is the ledger's outage that is looked at.
        results = f"file://{directory}/results"
        with opened(directory, server.database, "-c", "2", TEST_RESULTS=results) as shop:
            yield server, shop


def test_a_rollback_of_the_body_undoes_no_record(place: Any) -> None:
    """P5, with no extra configuration: sent inside atomic(), rolled back, retried, and not sent again."""
    _, shop = place
    value, status, attempts = shop.ask("""
result = in_transaction.delay(1)
value = result.get(timeout=60)
entry = in_transaction.entry_for(1)
answer([value, entry.status, entry.attempts])
""")
    assert (value, status, attempts) == ("committed", "sent", 1)
    assert shop.copies() == 1


def test_a_ledger_that_is_down_sends_nothing_and_loses_nothing(place: Any) -> None:
    """P6: stopped right before the write-ahead, back a little later; the task sends then, once."""
    server, shop = place
    shop.server.accepted.clear()
    before = shop.server.count("data")
    shop.server.hold("data")
    shop.ask("answer(confirm.apply_async((2,), task_id='patient').id)")
    shop.server.reached("data", before + 1)
    server.stop()
    shop.server.release("data")
    wait_for(lambda: "does not answer" in shop.logs(), 30, shop.logs)
    assert shop.copies() == 0
    server.start()
    assert shop.ask("answer(app.AsyncResult('patient').get(timeout=60))") == {"order": 2, "by": "patient"}
    assert shop.copies() == 1


def test_a_ledger_that_goes_down_after_acceptance(place: Any) -> None:
    """P6: the outcome is offered in-process until the ledger takes it; nothing is sent again."""
    server, shop = place
    shop.server.accepted.clear()
    before = shop.server.count("dot")
    shop.server.hold("dot")
    shop.ask("answer(confirm.apply_async((3,), task_id='late').id)")
    shop.server.reached("dot", before + 1)
    server.stop()
    shop.server.release("dot")
    wait_for(lambda: "trying again" in shop.logs(), 30, shop.logs)
    server.start()
    assert shop.ask("answer(app.AsyncResult('late').get(timeout=60))") == {"order": 3, "by": "late"}
    assert shop.copies() == 1
