"""What the scenarios do on the bed, and what they look at afterwards."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from tests.acceptance import questions
from tests.matrix.bed import Bed
from tests.support.matrix.nodes import LocalWorker


def subjects(bed: Bed) -> Counter[str]:
    """Return how many copies of each order's mail the server took."""
    return Counter(received.data.decode().split("Order ")[1].split()[0] for received in bed.server.accepted)


def held(bed: Bed, step: str, order: int, task_id: str) -> LocalWorker:
    """Hold the mail server at ``step``, publish ``order``, and return the worker whose body has got there."""
    before = bed.server.count(step)
    bed.server.hold(step)
    bed.shop.ask(questions.publish, "confirm", order, task_id=task_id)
    bed.server.reached(step, before + 1)
    pid = int(bed.shop.bodies()[-1].split()[-1])
    return next(worker for worker in bed.workers if pid in {worker.pid, *worker.children()})


def result(bed: Bed, task_id: str, timeout: float = 60) -> Any:
    """Return the task's result, or the name of its error."""
    return bed.shop.ask(questions.wait_for_end, task_id, timeout)


def idle(bed: Bed) -> None:
    """Give what may still be under way the time to do harm."""
    time.sleep(1.5)
