"""What the test of the claim table has called in the project: a claim after another run's state was left."""

from __future__ import annotations

import time
from typing import Any

from celery_idempotent.ledger.status import DeliveryStatus
from tests.acceptance.questions import task_of, value_of
from tests.support.seeded_entries import Seed


def claim_after(
    task: str,
    args: list[Any],
    task_id: str,
    state: str = "",
    given: Any = None,
    options: dict[str, float] | None = None,
    by: str = "seed",
    pause: float = 0,
    **policy: float,
) -> list[Any]:
    """Leave the entry of a call in ``state``, as another run would, and run the task under ``task_id``.

    Return its value or its error's name, the entry's status and generation, how long it took, and the statuses
    of the deliveries. ``state`` is the name of a method of `Seed`, which gets ``given`` and ``options``;
    ``pause`` comes after it.
    """
    begun = time.monotonic()
    if state:
        if state in ("settled", "failed"):
            given = DeliveryStatus(given)
        run = Seed(task_of(task), *args, by=by, **policy)
        getattr(run, state)(*([] if given is None else [given]), **(options or {}))
        time.sleep(pause)
    value = value_of(task_of(task).apply_async(args, task_id=task_id))
    took = time.monotonic() - begun
    entry = task_of(task).entry_for(*args)
    return [value, entry.status, entry.generation, took, [delivery.status for delivery in entry.deliveries]]
