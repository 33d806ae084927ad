"""Threads, solo and gevent: the claim belongs to a run, not to a process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance import questions
from tests.support.shop import opened, sqlite

pytestmark = pytest.mark.process


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_a_storm_on_one_key_in_every_pool(pool: str, tmp_path: Any) -> None:
    """P1, P3: one copy each, whatever runs the bodies side by side."""
    with opened(tmp_path, sqlite(tmp_path), "-P", pool, "-c", "4") as shop:
        storm = [("confirm", order) for order in (1, 2, 3) for _ in range(5)]
        values = shop.ask(questions.run_all, [*storm, ("stubborn", 9, 1, 1)])
        assert [value["order"] for value in values[:-1]] == [1] * 5 + [2] * 5 + [3] * 5
        assert values[-1] == 2
        assert shop.copies() == 4, shop.logs()
