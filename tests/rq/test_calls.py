"""Calls in this very process: queues without workers, direct calls, bad input, and what is told where."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured
from redis import Redis as Client
from redis.exceptions import RedisError
from rq import Queue, Retry, SimpleWorker
from rq.exceptions import ShutDownImminentException
from rq.job import Job
from rq.timeouts import JobTimeoutException, TimerDeathPenalty

from celery_idempotent import (
    IdempotentTask,
    InProgress,
    KeyFieldError,
    PayloadMismatch,
    RecipientsDeferred,
    Status,
)
from celery_idempotent.conduct import ComeBack, claim, conduct
from celery_idempotent.contrib import rq as adapter
from celery_idempotent.contrib.rq import IdempotentJob, idempotent, idempotent_email
from celery_idempotent.core.outcomes import Acquired
from celery_idempotent.identity import HEADER, own_note
from celery_idempotent.options import policy
from celery_idempotent.signals import email_sent
from tests.rq import app
from tests.support.mailserver import ScriptedSMTP
from tests.support.servers import Redis

pytestmark = pytest.mark.django_db
"""A worker looks after this process's database connections, which other tests have opened."""

calls: list[Any] = []


@idempotent(key_fields=("n",), lease=30)
def listed(n: int, answer: Any = None) -> Any:
    """Note the call; what a test wants to come of it, comes of it."""
    calls.append(n)
    if isinstance(answer, str) and answer.startswith("raise"):
        raise {"raise": ValueError, "raise shutdown": ShutDownImminentException}[answer](answer, {})
    return Retry(max=2) if answer == "retry" else answer


@pytest.fixture
def connection(redis: Redis) -> Iterator[Any]:
    """An empty Redis for jobs."""
    with Client.from_url(redis.url) as client:
        client.flushdb()
        yield client
        client.connection_pool.disconnect()


@pytest.fixture
def here(connection: Any, memory_ledger: Any) -> Queue:
    """A queue that runs its jobs at once, on an empty ledger."""
    calls.clear()
    return Queue("here", connection=connection, is_async=False, job_class=IdempotentJob)


@pytest.fixture
def queue(connection: Any, memory_ledger: Any) -> Queue:
    """A queue for `work`, on an empty ledger."""
    calls.clear()
    return Queue("queue", connection=connection, job_class=IdempotentJob)


class InThisProcess(SimpleWorker):
    """A worker that leaves this process's signals alone: the test's own time limit is one."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        """Install none."""


@idempotent(key_fields=("n",), lease=30)
def there(n: int) -> Any:
    """Calls another function, which calls this one."""
    calls.append(("there", n))
    return ["there", n, back(n)]


@idempotent(key_fields=("n",), lease=30)
def back(n: int) -> Any:
    """Calls `there` for the next number, up to 2."""
    calls.append(("back", n))
    return ["back", n, there(n + 1) if n < 2 else None]


@idempotent(key_fields=("n",))
def greylisted(n: int) -> None:
    """Is refused for now."""
    raise RecipientsDeferred("greylisted")


class Shop:
    """Has methods that are idempotent."""

    @idempotent(key_fields=("n",))
    def of_one(self, n: int) -> int:
        """A method."""
        calls.append(n)
        return n

    @classmethod
    @idempotent(key_fields=("n",))
    def of_all(cls, n: int) -> int:
        """A class method."""
        calls.append(n)
        return n


def work(queue: Queue) -> None:
    """Run what is in ``queue``, and what comes back, in this process."""
    InThisProcess([queue], connection=queue.connection).work(burst=True, max_jobs=20)


# -- queues without workers, and direct calls -----------------------------------------------------------------


def test_a_queue_that_is_not_async(here: Queue) -> None:
    """P3: jobs run where they are enqueued, once per key; the second gets the result of the first."""
    first, second = (here.enqueue(listed, 1, answer="done") for _ in range(2))
    assert [first.return_value(), second.return_value()] == ["done", "done"]
    assert calls == [1]
    assert first.meta[HEADER]["outcome"] == "sent"
    assert second.meta[HEADER]["outcome"] == "duplicate"
    assert second.meta[HEADER]["first_job_id"] == first.id


@pytest.mark.parametrize("answer", ["raise", "retry"])
def test_a_queue_that_is_not_async_tries_nothing_again(here: Queue, answer: str) -> None:
    """P2: whatever ``Retry`` says nobody runs it again, so it has failed; the next call runs."""
    here.enqueue(listed, 1, answer=answer, retry=Retry(3, interval=60))
    assert listed.entry_for(1).status is Status.FAILED
    assert here.enqueue(listed, 1, answer="done").return_value() == "done"
    assert calls == [1, 1]


def test_the_signals_sender_is_the_function(here: Queue) -> None:
    """A receiver may be connected for one function: the one that stands in its module."""
    heard: list[Any] = []

    def receiver(sender: Any, **_: Any) -> None:
        heard.append(sender)

    email_sent.connect(receiver, sender=listed)
    here.enqueue(listed, 1)
    here.enqueue(mailed, "ann@example.com")
    assert heard == [listed]


def test_a_direct_call_claims_as_well(memory_ledger: Any) -> None:
    """Called like any function, it runs once per key and replays."""
    calls.clear()
    assert [listed(1, answer={"a": 1}), listed(n=1, answer={"a": 1})] == [{"a": 1}] * 2
    assert calls == [1]
    assert listed.entry_for(1).owner.startswith("direct-")
    with pytest.raises(ValueError, match="raise"):
        listed(2, answer="raise")
    assert listed.entry_for(2).status is Status.FAILED


def test_a_direct_call_that_returns_retry_has_not_succeeded(memory_ledger: Any) -> None:
    """P2: its caller gets the Retry, and the next call runs the body."""
    calls.clear()
    assert isinstance(listed(1, answer="retry"), Retry)
    assert listed.entry_for(1).status is Status.FAILED
    assert listed(1, answer="done") == "done"
    assert calls == [1, 1]


def test_the_decorator_keeps_what_a_function_is() -> None:
    """Its name and path, so that RQ finds it; and it tells keys."""
    assert listed.__module__ == __name__
    assert listed.__qualname__ == "listed"
    assert listed.key_for(1) == listed.key_for(n=1) != listed.key_for("1")


def test_functions_that_call_each_other(queue: Queue) -> None:
    """P2: deep in its own job's body, the job's function is called for another email, and that is sent."""
    job = queue.enqueue(there, 1)
    work(queue)
    assert job.return_value() == ["there", 1, ["back", 1, ["there", 2, ["back", 2, None]]]]
    assert calls == [("there", 1), ("back", 1), ("there", 2), ("back", 2)]
    assert there.entry_for(2).status is Status.SENT


@pytest.mark.parametrize("name", ["of_one", "of_all"])
def test_methods(queue: Queue, name: str) -> None:
    """RQ keeps the instance or class beside the arguments; the key is computed at enqueue all the same."""
    jobs = [queue.enqueue(getattr(Shop(), name), 1), queue.enqueue(getattr(Shop(), name), n=1)]
    assert jobs[0].meta[HEADER]["key"] == jobs[1].meta[HEADER]["key"]
    work(queue)
    assert [job.return_value() for job in jobs] == [1, 1]
    assert calls == [1]


# -- a job's own life -----------------------------------------------------------------------------------------


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
            memory_ledger.release(running, _policy(), None, "gone")

    first = Queue("other", connection=queue.connection, job_class=IdempotentJob).enqueue(listed, 1)
    running = _claimed(memory_ledger, first)
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
        memory_ledger.release(running, _policy(), None, "gone")

    first = Queue("other", connection=queue.connection, job_class=IdempotentJob).enqueue(listed, 1)
    running = _claimed(memory_ledger, first)
    monkeypatch.setattr(adapter.time, "sleep", sleep)
    job = queue.enqueue(listed, 1, answer="done")
    work(queue)
    assert job.return_value() == "done"


@pytest.mark.parametrize(("waits", "least"), [(0, 1), (8, 256)])
def test_a_claim_lost_again_and_again(memory_ledger: Any, tracked: None, waits: int, least: float) -> None:
    """P2: jobs whose bodies take longer than the lease leave each other more and more time."""
    call, other = (adapter.DirectCall(brief.declared, (1,), {}) for _ in range(2))
    call.local, call.waits = False, waits

    def body() -> None:
        while not isinstance(memory_ledger.claim(other.asker, policy(brief.declared, False)), Acquired):
            time.sleep(0.01)

    with pytest.raises(ComeBack) as caught:
        conduct(call, claim(call), body)
    assert least <= caught.value.wait < 1.2 * least


@idempotent_email(key_fields=("n",), lease=0.05)
def brief(n: int) -> None:
    """Has a lease that is shorter than any body."""


def _policy() -> Any:
    return policy(listed.declared, False)


def _claimed(ledger: Any, job: Job) -> Any:
    """Claim the key of ``job`` as a worker would that has died since."""
    call = adapter.JobCall(listed.declared, job, job.args, job.kwargs)
    return ledger.claim(call.asker, _policy()).entry


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
        memory_ledger.release(running, _policy(), None, "gone")

    first = Queue("other", connection=queue.connection, job_class=IdempotentJob).enqueue(listed, 1)
    running = _claimed(memory_ledger, first)
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


# -- bad input -------------------------------------------------------------------------------------------------


def test_key_fields_that_the_function_does_not_have() -> None:
    """At decoration, with the function, the field and what there is."""
    with pytest.raises(ImproperlyConfigured, match=r"bad: key_fields names 'ordr'.*it has: order"):

        @idempotent_email(key_fields=("ordr",))
        def bad(order: int) -> None: ...


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key_feilds": ("n",)}, "there is no option 'key_feilds'. Did you mean 'key_fields'"),
        ({"max_retries": 3, "key_fields": ("n",)}, "there is no option 'max_retries'. There are key_fields"),
        ({"key_fields": "n"}, r"key_fields is the string 'n'; make it a tuple: \('n',\)"),
        ({}, "key_fields is empty"),
        ({"key_fields": ("n",), "lease": 0}, "lease is 0"),
        ({"key_fields": ("n",), "window": 5}, "window is 5"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], text: str) -> None:
    """At decoration, with the function, the option and the fix."""
    with pytest.raises(ImproperlyConfigured, match=rf"options_that_cannot_be_used\..*bad: {text}"):

        @idempotent(**options)
        def bad(n: int) -> None: ...


@pytest.mark.parametrize(
    ("args", "text"),
    [((), "missing a required argument: 'n'"), ((None,), "key field 'n' is None"), ((1, 2, 3), "too many")],
)
def test_a_call_that_does_not_fit_is_refused_at_enqueue(queue: Queue, args: Any, text: str) -> None:
    """With the job class nothing is enqueued, and the caller learns which field is missing."""
    with pytest.raises(KeyFieldError, match=rf"listed: .*{text}"):
        queue.enqueue(listed, *args)
    assert queue.count == 0
    assert not calls


def test_a_call_that_does_not_fit_fails_in_the_worker(queue: Queue) -> None:
    """From an enqueuer without the job class: FAILED at once, whatever retries it has; nothing is claimed."""
    plain = Queue("queue", connection=queue.connection)
    job = plain.enqueue(listed, None, retry=Retry(3, interval=60))
    work(plain)
    assert job.get_status() == "failed"
    assert "KeyFieldError" in job.latest_result().exc_string
    assert "listed: key field 'n' is None" in job.latest_result().exc_string
    assert not calls


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {HEADER: None},
        {HEADER: "garbled"},
        {HEADER: {"id": "another job", "key": "1:0", "fingerprint": "", "label": ""}},
        {HEADER: {"key": 5}},
        {"mine": 1},
    ],
)
def test_meta_that_is_missing_or_garbled(queue: Queue, meta: dict[str, Any]) -> None:
    """The worker computes the key, as for a job of an older version, and leaves the project's own meta."""
    plain = Queue("queue", connection=queue.connection)
    job = plain.enqueue(listed, 1, answer="done", meta=meta)
    work(plain)
    job.refresh()
    assert job.return_value() == "done"
    assert job.meta[HEADER]["key"] == listed.key_for(1)
    assert job.meta.get("mine") == meta.get("mine")
    assert queue.enqueue(listed, 1) is not None
    work(queue)
    assert calls == [1]


@pytest.mark.parametrize("field", ["key", "label", "fingerprint", "waits"])
def test_a_note_with_a_field_of_another_kind(queue: Queue, field: str) -> None:
    """A note that is this job's own but garbled counts as missing."""
    job = queue.enqueue(listed, 1, answer="done")
    job.meta[HEADER] = {**job.meta[HEADER], field: ["garbled"]}
    job.save_meta()
    assert own_note(job.meta, job.meta[HEADER]["id"]) is None
    work(queue)
    assert job.return_value() == "done"
    assert listed.entry_for(1).status is Status.SENT


def test_meta_that_cannot_be_read(queue: Queue) -> None:
    """RQ itself puts a stand-in there; the worker computes the key."""
    job = queue.enqueue(listed, 1, answer="done")
    queue.connection.hset(job.key, "meta", b"\x80garbled")
    work(queue)
    assert job.return_value() == "done"
    assert listed.entry_for(1).status is Status.SENT


def test_a_note_left_by_an_earlier_job_of_the_same_id(queue: Queue) -> None:
    """P2: RQ keeps the old meta where the new job has none; the new job's own arguments count."""
    plain = Queue("queue", connection=queue.connection)
    for n in (1, 2):
        plain.enqueue(listed, n, answer=n, job_id="mine")
        work(plain)
    assert calls == [1, 2]
    assert listed.entry_for(2).status is Status.SENT


def test_other_content_under_the_same_key(
    connection: Any, memory_ledger: Any, tracked: None, settings: Any
) -> None:
    """``on_mismatch="raise"``: FAILED at once, whatever retries the job has."""
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        queue = Queue("queue", connection=connection, job_class=IdempotentJob)
        first = queue.enqueue(app.particular, 1, "one")
        second = queue.enqueue(app.particular, 1, "two", retry=Retry(3, interval=60))
        work(queue)
        assert first.return_value() == "one"
        assert PayloadMismatch.__name__ in second.latest_result().exc_string
        assert second.get_status(refresh=True) == "failed"
        assert len(server.accepted) == 1


def test_conflicts_that_are_to_be_raised(queue: Queue, memory_ledger: Any) -> None:
    """``on_conflict="raise"`` is for the project, or RQ's Retry, to deal with."""
    first = queue.enqueue(listed, 1)
    _claimed(memory_ledger, first)
    listed.declared.on_conflict = "raise"
    try:
        with pytest.raises(InProgress):
            listed(1)
    finally:
        del listed.declared.on_conflict


# -- what is told where ----------------------------------------------------------------------------------------


def test_the_description_shows_the_key_fields_alone(queue: Queue) -> None:
    """P7: no address, no other argument; a description of the project's own stays."""
    job = queue.enqueue(app.confirm, 7, to="secret.person@example.com")
    assert job.description == f"tests.rq.app.confirm(order=7) {app.confirm.key_for(7)}"
    assert queue.enqueue(app.confirm, 8, description="mine").description == "mine"
    stored = {name: value for name, value in queue.connection.hgetall(job.key).items() if name != b"data"}
    assert b"secret.person" not in b"".join(stored.values())


def test_an_address_among_the_key_fields_is_masked(queue: Queue) -> None:
    """P7: the label is for people, so it has the mask."""
    job = queue.enqueue(mailed, "secret.person@example.com")
    assert "s***@example.com" in job.description
    assert "secret.person" not in job.description + str(job.meta)


@idempotent(key_fields=("to",), window=timedelta(days=1))
def mailed(to: str) -> None:
    """Has an address for its key."""


def test_other_jobs_are_rqs_own(queue: Queue) -> None:
    """The job class leaves functions alone that are not idempotent, and paths that nobody can import here."""
    assert queue.enqueue(app.noted, 1).meta == {}
    job = queue.enqueue("nowhere.to_be.found", 1)
    assert job.meta == {}
    assert job.description == "nowhere.to_be.found(1)"


def test_the_key_is_celerys_key() -> None:
    """One email type, one key, whichever queue."""
    from tests.acceptance import app as celery_shop

    assert app.confirm.key_for(1) == celery_shop.confirm.key_for(1)
    assert app.confirm.key_for(order=1, to="bob@example.com") == celery_shop.confirm.key_for(1)


@pytest.mark.parametrize(("fields", "expected"), [(None, PayloadMismatch), ((), "from Celery")])
def test_a_celery_task_with_other_parameters(memory_ledger: Any, fields: Any, expected: Any) -> None:
    """Parameters that only one of them has are other content, unless both say what counts as content."""
    same: dict[str, Any] = {"key_fields": ("n",), "email_type": "other-parameters", "on_mismatch": "raise"}
    same["fingerprint_fields"] = fields

    def send(n: int, to: str = "ann@example.com") -> str:
        return "from Celery"

    Celery("parameters").task(base=IdempotentTask, name=f"parameters-{fields}", **same)(send)(1)
    ours = idempotent(**same)(lambda n: "from RQ")
    if isinstance(expected, str):
        assert ours(1) == expected
    else:
        with pytest.raises(expected):
            ours(1)


def test_the_time_that_tells_jobs_of_one_id_apart_survives_redis(queue: Queue) -> None:
    """The note of a job that a worker has fetched is still its own."""
    job = queue.enqueue(listed, 1)
    fetched = Job.fetch(job.id, connection=queue.connection)
    assert adapter._intention(fetched) == adapter._intention(job) == job.meta[HEADER]["id"]
    time.sleep(0.001)
    assert queue.enqueue(listed, 1, job_id=job.id).meta[HEADER]["id"] != job.meta[HEADER]["id"]
