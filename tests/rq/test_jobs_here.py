"""A job's own life, in this very process: its retries, its waits, and what is away meanwhile."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis.exceptions import RedisError
from rq import Queue, Retry
from rq.job import Job
from rq.timeouts import JobTimeoutException

from celery_idempotent import InProgress, RecipientsDeferred, Status
from celery_idempotent.contrib import rq as adapter
from celery_idempotent.contrib.rq import IdempotentJob, idempotent, idempotent_email
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.email_types.job_note import HEADER
from celery_idempotent.execution.body import run_body
from celery_idempotent.execution.call import Snooze
from celery_idempotent.execution.claim import claim
from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.outcomes import Acquired
from celery_idempotent.testing import hold
from tests.rq.here import calls, claimed, listed, listed_policy, work

pytestmark = pytest.mark.django_db
"""A worker looks after this process's database connections, which other tests have opened."""


@idempotent(key_fields=("n",))
def greylisted(n: int) -> None:
    """Is refused for now."""
    raise RecipientsDeferred("greylisted")


def test_retries_of_a_job_that_raises(queue: Queue) -> None:
    """P4: RQ's Retry runs it again under its own claim, as often as it says."""
    job = queue.enqueue(listed, 1, answer="raise", retry=Retry(2))
    work(queue)
    assert calls == [1, 1, 1]
    assert job.get_status() == "failed"
    assert listed.entry_for(1).status is Status.FAILED


def test_a_busy_key_is_waited_for_without_a_scheduler(
    queue: Queue, memory_ledger: Any, monkeypatch: Any
) -> None:
    """The worker waits by itself, for a second at most, and no retries are spent."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            hold(memory_ledger, running, policy=listed_policy()).release("gone")

    first = Queue("other", connection=queue.connection, job_class=IdempotentJob).enqueue(listed, 1)
    running = claimed(memory_ledger, first)
    monkeypatch.setattr(adapter.time, "sleep", sleep)
    job = queue.enqueue(listed, 1, answer="done", retry=Retry(1))
    work(queue)
    job.refresh()
    assert job.return_value() == "done"
    assert (job.retries_left, job.number_of_retries, job.meta[HEADER]["waits"]) == (1, 3, 3)
    assert all(seconds <= 1 for seconds in waited)


def test_a_time_limit_while_it_waits_costs_nothing(queue: Queue, memory_ledger: Any, monkeypatch: Any) -> None:
    """P2: a job_timeout in the pause of a job that comes back ends the pause alone."""
    strikes: list[None] = []

    def sleep(seconds: float) -> None:
        if not strikes:
            strikes.append(None)
            raise JobTimeoutException("struck")
        hold(memory_ledger, running, policy=listed_policy()).release("gone")

    first = Queue("other", connection=queue.connection, job_class=IdempotentJob).enqueue(listed, 1)
    running = claimed(memory_ledger, first)
    monkeypatch.setattr(adapter.time, "sleep", sleep)
    job = queue.enqueue(listed, 1, answer="done")
    work(queue)
    assert job.return_value() == "done"


@pytest.mark.parametrize(("waits", "least"), [(0, 1), (8, 256)])
def test_a_claim_lost_again_and_again(memory_ledger: Any, tracked: None, waits: int, least: float) -> None:
    """P2: a job whose body took longer than the lease leaves who is sending more and more time."""
    call, other = (adapter.DirectCall(brief.declared, (1,), {}) for _ in range(2))
    call.local, call.waits = False, waits

    def body() -> None:
        rules = email_type_of(brief.declared).policy(False)
        while not isinstance(outcome := memory_ledger.claim(other.claimant, rules), Acquired):
            time.sleep(0.01)
        hold(memory_ledger, outcome.entry, other.claimant, rules).begin(
            [("0", Recipient("d", "a***"))], "<m@x>"
        )

    with pytest.raises(Snooze) as caught:
        run_body(call, claim(call), body)
    assert least <= caught.value.wait < 1.2 * least


@idempotent_email(key_fields=("n",), lease=0.05)
def brief(n: int) -> None:
    """Has a lease that is shorter than any body."""


def test_rqs_redis_away_as_a_body_ends(queue: Queue, monkeypatch: Any) -> None:
    """P2: how the body ended is recorded, and the job fails with the body's own error."""
    monkeypatch.setattr(adapter.RQScheduler, "get_locking_key", _away)
    job = queue.enqueue(greylisted, 1)
    work(queue)
    assert greylisted.entry_for(1).status is Status.FAILED
    assert "RecipientsDeferred: greylisted" in job.latest_result().exc_string


def test_rqs_redis_away_as_a_job_comes_back(queue: Queue, memory_ledger: Any, monkeypatch: Any) -> None:
    """P2: it comes back all the same, if RQ itself reaches its Redis by then."""

    def sleep(seconds: float) -> None:
        hold(memory_ledger, running, policy=listed_policy()).release("gone")

    first = Queue("other", connection=queue.connection, job_class=IdempotentJob).enqueue(listed, 1)
    running = claimed(memory_ledger, first)
    monkeypatch.setattr(adapter.RQScheduler, "get_locking_key", _away)
    monkeypatch.setattr(Job, "save_meta", _away)
    monkeypatch.setattr(adapter.time, "sleep", sleep)
    job = queue.enqueue(listed, 1, answer="done")
    work(queue)
    assert job.return_value() == "done"


def _away(*_: Any) -> None:
    raise RedisError("away")


def test_a_shutdown_in_an_opaque_body_leaves_it_to_its_deadline_or_doubt(queue: Queue) -> None:
    """P1: a worker's imminent shutdown strikes anywhere in the body, so nobody runs it again at once."""
    queue.enqueue(listed, 1, answer="raise shutdown")
    work(queue)
    assert listed.entry_for(1).status in (Status.SENDING, Status.IN_DOUBT)
    assert calls == [1]


def test_conflicts_that_are_to_be_raised(queue: Queue, memory_ledger: Any) -> None:
    """``on_conflict="raise"`` is for the project, or RQ's Retry, to deal with."""
    first = queue.enqueue(listed, 1)
    claimed(memory_ledger, first)
    listed.declared.on_conflict = "raise"
    try:
        with pytest.raises(InProgress):
            listed(1)
    finally:
        del listed.declared.on_conflict


def test_the_time_that_tells_jobs_of_one_id_apart_survives_redis(queue: Queue) -> None:
    """The note of a job that a worker has fetched is still its own."""
    job = queue.enqueue(listed, 1)
    fetched = Job.fetch(job.id, connection=queue.connection)
    assert adapter._intention(fetched) == adapter._intention(job) == job.meta[HEADER]["id"]
    time.sleep(0.001)
    assert queue.enqueue(listed, 1, job_id=job.id).meta[HEADER]["id"] != job.meta[HEADER]["id"]
