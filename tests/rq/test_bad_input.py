"""Calls, options and notes that do not fit: refused where they are made, or worked out by the worker."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured
from rq import Queue, Retry

from celery_idempotent import IdempotentTask, KeyFieldError, PayloadMismatch, Status
from celery_idempotent.contrib.rq import IdempotentJob, idempotent, idempotent_email
from celery_idempotent.email_types.job_note import HEADER, JobNote
from tests.rq import app
from tests.rq.here import calls, listed, work
from tests.support.mailserver import ScriptedSMTP

pytestmark = pytest.mark.django_db
"""A worker looks after this process's database connections, which other tests have opened."""


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
    assert JobNote.from_carried(job.meta, job.meta[HEADER]["id"]) is None
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
