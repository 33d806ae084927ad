"""What goes wrong in a Django task, and bad input: a clear error at the earliest moment, nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from celery_idempotent import DeliveryInDoubt, KeyFieldError, LedgerUnavailable, Status
from celery_idempotent.contrib import django_tasks
from celery_idempotent.contrib.django_tasks import idempotent_email
from celery_idempotent.execution.functions import known
from tests.django_tasks.told import entry, fail, failure, seed, value
from tests.support.mailserver import DROP, ScriptedSMTP

# -- what goes wrong ---------------------------------------------------------------------------------------


def test_an_error_fails_the_task_and_the_next_one_sends(jobs: Any, server: ScriptedSMTP) -> None:
    """There are no retries: the entry is FAILED, and free for whoever asks next."""
    jobs.inside[1] = fail
    assert failure(jobs.confirm.enqueue(1)) == "ValueError"
    assert entry(jobs.confirm, 1).status is Status.FAILED
    jobs.inside.clear()
    assert value(jobs.confirm.enqueue(1))["order"] == 1
    assert len(server.accepted) == 1


def test_a_claim_held_by_somebody_else(jobs: Any, server: ScriptedSMTP) -> None:
    """The immediate backend does not make its caller wait: the task fails with `InProgress`."""
    seed(jobs.confirm, 1).claimed()
    assert failure(jobs.confirm.enqueue(1)) == "InProgress"
    assert server.accepted == []


class Clock:
    """Time that passes where somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let it pass."""
        self.now += seconds


@pytest.mark.django_db
def test_a_backend_that_cannot_defer(jobs: Any, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lease and a hand-over of waiting the task fails with `InProgress`; nothing is enqueued."""
    clock = Clock()
    monkeypatch.setattr(django_tasks, "time", clock)
    monkeypatch.setattr(django_tasks.TaskCall, "local", property(lambda _: False, lambda *_: None))
    seed(jobs.confirm, 1).claimed()
    result = jobs.confirm.enqueue(1)
    assert failure(result) == "InProgress"
    assert "goes on as" not in result.errors[-1].traceback
    assert 30 < clock.now <= 30 + 60


def test_the_ledger_does_not_answer(
    jobs: Any, server: ScriptedSMTP, memory_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P6: nothing is sent, the task says why."""

    def away(*_: Any) -> Any:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(memory_ledger.store, "insert", away)
        assert failure(jobs.confirm.enqueue(1)) == "LedgerUnavailable"
    assert server.accepted == []
    assert value(jobs.confirm.enqueue(1))["order"] == 1


def test_a_lost_reply_is_doubt(jobs: Any, server: ScriptedSMTP) -> None:
    """P1: the task fails with `DeliveryInDoubt`, the entry says so, and the next task is held."""
    server.script["dot"] = DROP
    first = jobs.confirm.enqueue(1)
    assert failure(first) == "DeliveryInDoubt"
    assert entry(jobs.confirm, 1).status is Status.IN_DOUBT
    server.script["dot"] = "250 queued"
    assert failure(jobs.confirm.enqueue(1)) == "DeliveryInDoubt"
    assert server.accepted == []


@pytest.mark.parametrize(
    ("script", "error"),
    [({"rcpt": "450 later"}, "RecipientsDeferred"), ({"banner": "421 busy"}, "SMTPConnectError")],
)
def test_an_error_that_the_body_swallows_fails_the_task(
    jobs: Any, server: ScriptedSMTP, script: dict[str, str], error: str
) -> None:
    """P2: there are no retries, so it fails at once, with that error; the next task sends."""
    well = dict(server.script)
    server.script |= script
    assert failure(jobs.swallowing.enqueue(1)) == error
    server.script |= well
    assert entry(jobs.swallowing, 1).status is Status.FAILED
    assert value(jobs.swallowing.enqueue(1)) == "done"
    assert len(server.accepted) == 1


def test_an_opaque_body_may_say_that_it_does_not_know(jobs: Any, memory_ledger: Any) -> None:
    """``in_doubt_for`` works as with Celery."""

    def lose() -> None:
        raise OSError("no reply")

    jobs.inside[1] = lose
    assert failure(jobs.charge.enqueue(1)) == "OSError"
    assert entry(jobs.charge, 1).status is Status.IN_DOUBT
    with pytest.raises(DeliveryInDoubt):
        jobs.charge.call(1)


def test_a_result_that_is_not_json(jobs: Any, memory_ledger: Any) -> None:
    """The framework fails the task after the work was done; a duplicate does nothing and gets None."""
    assert failure(jobs.unspeakable.enqueue(1)) == "TypeError"
    assert entry(jobs.unspeakable, 1).status is Status.SENT
    assert value(jobs.unspeakable.enqueue(1)) is None
    assert jobs.bodies == [(1,)]


def test_no_task_is_left_behind(jobs: Any, server: ScriptedSMTP, framework: str) -> None:
    """After an error, Ctrl-C, or another receiver's error, the next direct call goes by an id of its own."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    jobs.inside.update({1: fail, 2: interrupt})
    assert failure(jobs.confirm.enqueue(1)) == "ValueError"
    assert django_tasks._started.get() is None
    with pytest.raises(KeyboardInterrupt):
        jobs.confirm.enqueue(2)
    assert django_tasks._started.get() is None
    assert entry(jobs.confirm, 2).status is Status.CLAIMED
    jobs.confirm.call(3)
    assert entry(jobs.confirm, 3).owner.startswith("direct-")


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "the call does not fit the task: missing a required argument: 'order'"),
        ((None,), "key field 'order' is None, which identifies nothing"),
        ((1, "a@example.com", 3), "the call does not fit the task: too many positional arguments"),
    ],
)
@pytest.mark.parametrize("backend", ["default", "dummy"])
def test_a_call_without_its_key_is_refused_where_it_is_made(
    jobs: Any, server: ScriptedSMTP, backend: str, arguments: Any, text: str
) -> None:
    """As with Celery: `enqueue` raises, naming task, field and fix."""
    with pytest.raises(KeyFieldError, match=f"jobs.confirm: {text}"):
        jobs.confirm.using(backend=backend).enqueue(*arguments)
    assert jobs.bodies == []


def test_a_key_function_that_cannot_be_asked_yet_stops_nobody(
    jobs: Any, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Only a missing key is a reason to refuse: the worker may know more."""

    def away(*_: Any) -> str:
        raise ConnectionError("the database is away")

    monkeypatch.setattr(jobs.confirm.func.declared, "key_function", away, raising=False)
    result = jobs.confirm.using(backend="dummy").enqueue(1)
    assert result.status == "READY"
    assert "no key could be computed yet" in caplog.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key_fields": ("orders",)}, "key_fields names 'orders', which is not a parameter"),
        ({"key_fields": ("order",), "leases": 3}, "there is no option 'leases'. Did you mean 'lease'"),
        ({"key_fields": ("order",), "max_retries": 3}, "there is no option 'max_retries'"),
        ({"key_fields": ("order",), "dedupe_on_publish": True}, "there is no option 'dedupe_on_publish'"),
        ({}, "key_fields is empty"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], text: str) -> None:
    """An error when the module is imported, naming function, option and fix; nothing of it stays."""
    before = len(known)

    def wrong(order: int) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=f"wrong: {text}"):
        idempotent_email(**options)(wrong)
    assert len(known) == before


def test_decorators_in_the_wrong_order(jobs: Any) -> None:
    """``@task`` makes an object of the function; the error says which one has to be above."""
    with pytest.raises(ImproperlyConfigured, match="is not a function: write @task above"):
        idempotent_email(key_fields=("order",))(jobs.confirm)


def test_neither_framework_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the module says what to install."""
    monkeypatch.setattr(django_tasks, "find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match="needs Django 6, or django-tasks"):
        django_tasks._connect()
