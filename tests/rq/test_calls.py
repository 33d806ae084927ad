"""Calls in this very process: queues without workers, direct calls, and what is told where."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
from rq import Queue, Retry

from celery_idempotent import Status
from celery_idempotent.contrib.rq import idempotent
from celery_idempotent.email_types.job_note import HEADER
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.signals import email_sent
from tests.rq import app
from tests.rq.here import calls, listed, mailed, work

pytestmark = pytest.mark.django_db
"""A worker looks after this process's database connections, which other tests have opened."""


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


def test_this_process_runs_the_code_as_it_is() -> None:
    """The points at which workers are killed are not in place where tests only import the tasks."""
    assert Ledger.claim.__module__ == Ledger.__module__
    assert tempfile.gettempdir() != app.DIRECTORY, "what others left there is not for us"


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
    assert listed.__module__ == "tests.rq.here"
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
