"""The Redis store on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis as client

from celery_idempotent.stores.redis import RedisStore
from celery_idempotent.testing import StoreConformance
from tests.support.servers import Redis

DAY = timedelta(days=1)


@pytest.fixture
def store(redis: Redis) -> Iterator[RedisStore]:
    """An empty store."""
    with client.Redis.from_url(redis.url) as connected:
        connected.flushall()
        yield RedisStore(lambda: connected, lambda: DAY)


class TestRedisStore(StoreConformance):
    """Conforms."""

    @pytest.fixture
    def store(self, store: Any) -> Any:
        return store
