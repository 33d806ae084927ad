"""A task that comes back for its own doubt, while the server may still be at it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from celery_idempotent import IdempotentTask, Status, Verdict
from celery_idempotent.email_types.job_note import HEADER, JobNote
from celery_idempotent.ledger.status import DeliveryStatus
from tests.support.seeded_entries import Seed

app = Celery("own-doubts", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.mark.parametrize("on_conflict", ["retry", "skip", "raise"])
@pytest.mark.parametrize("state", ["in doubt", "sending"])
def test_it_waits_whatever_it_does_about_others(memory_ledger: Any, on_conflict: str, state: str) -> None:
    """P2, P4: nobody else is at work. Ended without waiting, nobody would send what was not sent."""
    ran: list[int] = []

    @app.task(
        base=IdempotentTask,
        key_fields=("n",),
        name=f"asked-{on_conflict}-{state}",
        on_conflict=on_conflict,
        in_doubt=lambda entry: Verdict.NOT_SENT,
    )
    def asked(n: int) -> None:
        ran.append(n)

    own = f"own-{on_conflict}-{state}"
    seed = Seed(asked, 1, by=own)
    seed.settled(DeliveryStatus.IN_DOUBT) if state == "in doubt" else seed.sending()
    request = {"id": own, "headers": {HEADER: JobNote.of(asked._identify((1,), {}), own).to_carry()}}
    deliver = build_tracer(asked.name, asked, app=app)
    deliver(own, (1,), {}, {**request, "args": (1,), "kwargs": {}})
    assert asked.AsyncResult(own).state == "RETRY"
    clock = memory_ledger.store.clock
    memory_ledger.store.clock = lambda: clock() + timedelta(seconds=60)
    deliver(own, (1,), {}, {**request, "args": (1,), "kwargs": {}})
    assert (ran, asked.entry_for(1).status) == ([1], Status.SENT)
