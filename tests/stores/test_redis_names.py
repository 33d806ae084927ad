"""An error about what is stored in Redis names the key that holds it, also where all of them are looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_idempotent.exceptions import EntryUnreadable
from celery_idempotent.stores.redis.store import RedisStore
from celery_idempotent.testing import ANN
from tests.stores.emails import DAY, PLACE


@pytest.mark.parametrize(
    "look",
    [lambda store: store.purge(older_than=0), lambda store: store.naming(ANN.digest)],
    ids=["purge", "naming"],
)
def test_what_is_no_entry_is_named(connected: Any, look: Callable[[RedisStore], Any]) -> None:
    """Somebody has to look at it, and may have to delete it."""
    place = PLACE("foreign")
    connected.rpush(place, "a")
    connected.expire(place, 1000)
    with pytest.raises(EntryUnreadable, match="another program") as error:
        look(RedisStore(lambda: connected, lambda: DAY))
    assert repr(place) in str(error.value)
