"""P2 on real servers: what was committed is delivered, whoever is killed; what was rolled back is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import outbox_questions, questions
from tests.support.outage import Outage, Plan, kept, shown
from tests.support.servers import MariaDB, Postgres, RabbitMQ, Redis
from tests.support.shop import Shop, opened, sqlite
from tests.support.tiers import sized
from tests.support.worker import wait_for


@pytest.fixture(scope="module", params=["database", "redis", "mariadb"])
def place(request: Any, redis: Redis, tmp_path_factory: Any) -> Iterator[Shop]:
    """A worker, the outbox in SQLite, and a ledger beside it or in Redis; or outbox and ledger in MariaDB."""
    directory = tmp_path_factory.mktemp("shop")
    results = redis.url if request.param == "redis" else "django-db"
    with ExitStack() as stack:
        database = sqlite(directory)
        if request.param == "mariadb":
            database = stack.enter_context(MariaDB()).database  # its own: every row in there is this test's
        yield stack.enter_context(opened(directory, database, "-c", "2", TEST_RESULTS=results))


def test_a_commit_is_delivered_and_its_row_goes(place: Shop) -> None:
    """The worker removes the row itself; what was rolled back was never there."""
    place.ask(outbox_questions.commit_and_roll_back, 1, 29, rolled_back=99)
    wait_for(lambda: place.ask(outbox_questions.count_waiting) == 0, 60, place.logs)
    assert place.copies() == 29
    assert place.ask(questions.find_status, "confirm", 99) is None


def test_a_publisher_that_is_killed_after_its_commit(place: Shop) -> None:
    """Nothing was published, and the relay does it, under the id that was written; told to stop, it stops."""
    before = place.copies()
    place.ask(outbox_questions.die_after_the_commit, 500, dies=True)
    assert place.ask(outbox_questions.count_waiting) == 1
    with manage(place, "idempotency", "relay", "--continuous", "--interval", "0.2") as relay:
        place.ask(outbox_questions.make_due)
        wait_for(lambda: place.ask(outbox_questions.count_waiting) == 0, 60, place.logs)
        assert place.copies() == before + 1
        relay.terminate()
        out, _ = relay.communicate(timeout=30)
    assert relay.returncode == 0
    assert "relay: stopped" in out


@contextmanager
def manage(shop: Shop, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the project that runs a management command, until the end of the with block at most."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.acceptance.manage", *command],
        env={**os.environ, **shop.environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_everything_is_killed_and_every_committed_order_arrives_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    """A Redis that forgets everything, workers that acknowledge early, relays that die with rows in hand."""
    orders, seconds = sized(test=(150, 9), all=(300, 18))
    plan = Plan(orders, seconds, worker_lives=4, broker_lives=6, relay_lives=5, patience=100)
    with Redis() as broker:
        figures = Outage(plan, broker, postgres, tmp_path).run()
    assert kept(figures), shown(figures)
    assert (figures.committed, figures.rolled_back) == (orders * 2 // 3, orders // 3)
    assert figures.broker_killed >= 1, "or this shows nothing"
    assert figures.workers_killed >= sized(test=1, all=2)


@pytest.mark.full
def test_the_same_on_rabbitmq(postgres: Postgres, tmp_path: Path) -> None:
    """With late acknowledgement the broker and the relay both deliver again: harmless."""
    plan = Plan(
        orders=90, seconds=12, worker_lives=5, broker_lives=7, relay_lives=60, patience=100, early_ack=False
    )
    with RabbitMQ() as broker:
        figures = Outage(plan, broker, postgres, tmp_path).run()
    assert kept(figures), shown(figures)
    assert (figures.committed, figures.rolled_back) == (60, 30)
    assert figures.broker_killed >= 1
