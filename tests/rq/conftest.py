"""Shops with RQ workers, one per module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.rq import RQShop, clean, opened, redis_ledger
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
