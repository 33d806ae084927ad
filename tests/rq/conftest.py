"""Shops with RQ workers, one per module; and queues of this very process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis as Client
from rq import Queue

from celery_idempotent.contrib.rq import IdempotentJob
from tests.rq.here import calls
from tests.support.rq import RQShop, clean, opened, orders, redis_ledger
from tests.support.servers import Redis


@pytest.fixture(scope="module")
def rq_process(tmp_path_factory: Any) -> Iterator[RQShop]:
    """SQLite, a forking worker and a scheduler."""
    with opened(tmp_path_factory.mktemp("rq")) as shop, shop.worker_of():
        yield shop


@pytest.fixture
def shop(rq_process: RQShop) -> RQShop:
    """The module's shop, its mail server and notes emptied."""
    return clean(rq_process)


@pytest.fixture(scope="module")
def redis_process(tmp_path_factory: Any) -> Iterator[RQShop]:
    """The same with the ledger in a Redis of its own."""
    place = tmp_path_factory.mktemp("rq")
    with Redis() as ledger, opened(place, **redis_ledger(ledger.url)) as shop, shop.worker_of():
        yield shop


@pytest.fixture(params=["sqlite", "redis"])
def either(request: Any) -> RQShop:
    """A shop with each ledger, one after the other."""
    return clean(request.getfixturevalue({"sqlite": "rq_process", "redis": "redis_process"}[request.param]))


@pytest.fixture
def connection(redis: Redis) -> Iterator[Any]:
    """An empty Redis for jobs."""
    with Client.from_url(redis.url) as client:
        client.flushdb()
        yield client
        client.connection_pool.disconnect()


@pytest.fixture
def here(connection: Any, memory_ledger: Any) -> Queue:
    """A queue that runs its jobs at once, on an empty ledger."""
    calls.clear()
    return Queue("here", connection=connection, is_async=False, job_class=IdempotentJob)


@pytest.fixture
def queue(connection: Any, memory_ledger: Any) -> Queue:
    """A queue for `work`, on an empty ledger."""
    calls.clear()
    return Queue("queue", connection=connection, job_class=IdempotentJob)


@pytest.fixture
def order() -> int:
    """The number of an order that no other test has."""
    return next(orders)
