"""What the tests of more than one store start with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis as client

from tests.support.servers import Redis


@pytest.fixture
def connected(redis: Redis) -> Iterator[Any]:
    """A client of an empty Redis."""
    with client.Redis.from_url(redis.url) as connected:
        connected.flushall()
        connected.config_set("maxmemory", 0)
        yield connected
