"""Functions that the race between a Celery worker and RQ workers has called in the project."""

from __future__ import annotations

import os
from pathlib import Path

from rq import Queue, Retry

from tests.acceptance import app as celery_shop
from tests.rq.app import confirm, emails


def raise_the_barrier() -> None:
    """From now on, who comes first to a key waits for the other queue."""
    Path(os.environ["TEST_DIRECTORY"], "barrier").mkdir()


def give_both(start: int, number: int) -> None:
    """Give both queues the same keys."""
    numbers = range(start, start + number)
    with celery_shop.app.producer_or_acquire() as producer:
        for n in numbers:
            celery_shop.confirm.apply_async((n,), producer=producer)
    emails.enqueue_many([Queue.prepare_data(confirm, (n,), retry=Retry(20)) for n in numbers])


def look(number: int) -> list[list[str | bool]]:
    """Return each entry's status, and whether it belongs to a job of RQ's."""
    found = [confirm.entry_for(n) for n in range(number)]
    return [[entry.status.value, "@" in entry.owner] for entry in found]
