"""The points of the protocol at which `crash` can kill a process, and a task that is killed there."""

from __future__ import annotations

from typing import Any

from tests.acceptance import questions
from tests.support.shop import Shop

RESUMED = ["before-claim", "after-claim", "after-354", "after-record", "after-send", "before-complete"]
"""Outside the hand-over, and before the end: a redelivery goes on from there."""
REPLAYED = ["after-complete", "before-ack"]
"""After the end: a redelivery finds it done."""
DOUBTFUL = {"after-write-ahead": 0, "after-payload": 0, "after-dot": 1, "after-250": 1}
"""Inside the hand-over, with the copies that the mail server has by then."""


def killed_at(point: str, shop: Shop, order: int, task: str = "confirm") -> Any:
    """Run ``task``, whose process is killed at ``point``; return its value, the entry's status, and its id."""
    shop.crash_at(point)
    told = shop.ask(questions.run_and_look, task, order)
    shop.crashed()
    return told
