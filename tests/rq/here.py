"""Functions for queues in this very process, and a worker for them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rq import Queue, Retry, SimpleWorker
from rq.exceptions import ShutDownImminentException
from rq.job import Job
from rq.timeouts import TimerDeathPenalty

from celery_idempotent.contrib import rq as adapter
from celery_idempotent.contrib.rq import idempotent
from celery_idempotent.email_types.email_type import email_type_of

calls: list[Any] = []
"""What ran, in order."""


@idempotent(key_fields=("n",), lease=30)
def listed(n: int, answer: Any = None) -> Any:
    """Note the call; what a test wants to come of it, comes of it."""
    calls.append(n)
    if isinstance(answer, str) and answer.startswith("raise"):
        raise {"raise": ValueError, "raise shutdown": ShutDownImminentException}[answer](answer, {})
    return Retry(max=2) if answer == "retry" else answer


class InThisProcess(SimpleWorker):
    """A worker that leaves this process's signals alone: the test's own time limit is one."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        """Install none."""


def work(queue: Queue) -> None:
    """Run what is in ``queue``, and what comes back, in this process."""
    InThisProcess([queue], connection=queue.connection).work(burst=True, max_jobs=20)


def listed_policy() -> Any:
    """Return what `listed` wants of the ledger."""
    return email_type_of(listed.declared).policy(False)


def claimed(ledger: Any, job: Job) -> Any:
    """Claim the key of ``job`` as a worker would that has died since."""
    call = adapter.JobCall(listed.declared, job, job.args, job.kwargs)
    return ledger.claim(call.claimant, listed_policy()).entry


@idempotent(key_fields=("to",), window=timedelta(days=1))
def mailed(to: str) -> None:
    """Has an address for its key."""
