"""Tasks of Django's framework on the backends that need no worker, immediate and dummy, and direct calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from celery_idempotent import DeliveryInDoubt, InProgress, KeyFieldError, LedgerUnavailable, Status
from celery_idempotent.contrib import django_tasks
from celery_idempotent.contrib.django_tasks import idempotent_email
from celery_idempotent.functions import known
from celery_idempotent.signals import duplicate_suppressed
from tests.support.mailserver import DROP, ScriptedSMTP
from tests.support.seed import Seed


def value(result: Any) -> Any:
    """Return what a task that has to have succeeded returned."""
    assert result.status == "SUCCESSFUL", result.errors[-1].traceback
    return result.return_value


def failure(result: Any) -> str:
    """Return the name of the error of a task that has to have failed."""
    assert result.status == "FAILED", result
    return str(result.errors[-1].exception_class_path.rpartition(".")[2])


def entry(task: Any, order: Any) -> Any:
    """Return what the ledger knows."""
    return task.func.entry_for(order)


def seed(task: Any, order: Any) -> Seed:
    """Return somebody else's run of the same email."""

    class Carrier:
        name, email_type = task.func.declared.name, task.func.declared.email_type
        _identify = task.func.declared.identify

    return Seed(Carrier, order, by="somebody-else")


# -- duplicates --------------------------------------------------------------------------------------------


def test_a_duplicate_succeeds_with_the_recorded_result(jobs: Any, server: ScriptedSMTP) -> None:
    """P1, P3: positional, keyword, other priority or queue: one mail, the first run's value for all."""
    told = []
    listener = duplicate_suppressed.connect(
        lambda sender, task_id, first_task_id, **_: told.append((sender, task_id, first_task_id)), weak=False
    )
    first = jobs.confirm.enqueue(1)
    others = [
        jobs.confirm.enqueue(1),
        jobs.confirm.enqueue(order=1),
        jobs.confirm.using(priority=50, queue_name="mails").enqueue(1, "ann@example.com"),
    ]
    duplicate_suppressed.disconnect(listener)
    assert value(first) == {"order": 1, "run": 1}
    assert [value(result) for result in others] == [value(first)] * 3
    assert len(server.accepted) == 1
    assert told == [(jobs.plain_confirm, result.id, first.id) for result in others]
    assert (entry(jobs.confirm, 1).status, entry(jobs.confirm, 1).owner) == (Status.SENT, first.id)


def test_the_context_counts_for_nothing(jobs: Any, server: ScriptedSMTP) -> None:
    """``takes_context``: neither for the key nor for the content; ``key_for`` goes without it."""
    first, second = jobs.with_context.enqueue(1), jobs.with_context.enqueue(order=1)
    assert value(first) == value(second) == first.id
    assert jobs.with_context.func.key_for(1) == entry(jobs.with_context, 1).key
    texts = [jobs.strict.enqueue(2, text="one"), jobs.strict.enqueue(2, "one"), jobs.strict.enqueue(2, "two")]
    assert [value(texts[0]), value(texts[1]), failure(texts[2])] == ["one", "one", "PayloadMismatch"]
    assert len(server.accepted) == 2


def test_a_coroutine_function(jobs: Any, server: ScriptedSMTP) -> None:
    """Its mail is tracked; `aenqueue`, `enqueue`, ``call`` and ``acall`` replay one result."""

    async def main() -> Any:
        first = await jobs.later.aenqueue(1)
        return first, await jobs.later.aenqueue(order=1), await jobs.later.acall(1)

    first, second, called = asyncio.run(main())
    assert value(first) == value(second) == called == jobs.later.call(1) == "awaited 1"
    assert value(jobs.later.enqueue(1)) == "awaited 1"
    assert (len(server.accepted), jobs.bodies) == (1, [(1,)])
    assert entry(jobs.later, 1).owner == first.id
    assert len(entry(jobs.later, 1).deliveries) == 1


def test_a_plain_function_in_an_event_loop(jobs: Any, server: ScriptedSMTP) -> None:
    """`aenqueue` runs it in a thread, under the task's id."""
    result = asyncio.run(jobs.confirm.aenqueue(1))
    assert value(result)["order"] == 1
    assert entry(jobs.confirm, 1).owner == result.id


# -- direct calls ------------------------------------------------------------------------------------------


def test_direct_calls_claim_under_ids_of_their_own(jobs: Any, server: ScriptedSMTP) -> None:
    """``call``, and the function itself: once per key, whoever calls; errors are the caller's."""
    assert jobs.confirm.call(1) == jobs.plain_confirm(order=1) == {"order": 1, "run": 1}
    assert entry(jobs.confirm, 1).owner.startswith("direct-")
    assert value(jobs.confirm.enqueue(1)) == {"order": 1, "run": 1}
    seed(jobs.confirm, 2).claimed()
    with pytest.raises(InProgress, match="somebody-else works on"):
        jobs.confirm.call(2)
    with pytest.raises(KeyFieldError, match=r"jobs\.confirm: key field 'order' is None"):
        jobs.plain_confirm(None)
    assert len(server.accepted) == 1


def test_a_task_that_is_not_ours_calls_a_function_that_is(jobs: Any, server: ScriptedSMTP) -> None:
    """That call is direct: it does not go by the id of the task around it."""
    assert value(jobs.not_ours.enqueue(1)) == value(jobs.confirm.enqueue(1))
    assert entry(jobs.confirm, 1).owner.startswith("direct-")


# -- tasks inside tasks ------------------------------------------------------------------------------------


def test_a_task_enqueued_inside_another_ones_body(jobs: Any, server: ScriptedSMTP) -> None:
    """Each goes by its own id, and what the outer one sends afterwards is still its own."""
    ids = []
    jobs.inside[1] = lambda: ids.append(jobs.other.enqueue(7).id)
    outer = jobs.confirm.enqueue(1)
    assert value(outer)["order"] == 1
    assert entry(jobs.confirm, 1).owner == outer.id
    assert [entry(jobs.other, 7).owner] == ids
    assert [len(entry(task, order).deliveries) for task, order in ((jobs.confirm, 1), (jobs.other, 7))] == [
        1,
        1,
    ]


def test_a_body_that_asks_for_its_own_email(jobs: Any, server: ScriptedSMTP) -> None:
    """Enqueued or called inside itself: that fails at once with `InProgress`, and the outer run sends."""
    seen = []

    def twice() -> None:
        seen.append(failure(jobs.confirm.enqueue(1)))
        with pytest.raises(InProgress):
            jobs.confirm.call(1)

    jobs.inside[1] = twice
    assert value(jobs.confirm.enqueue(1))["order"] == 1
    assert (seen, len(server.accepted)) == (["InProgress"], 1)


def test_a_body_that_asks_for_another_of_its_kind(jobs: Any, server: ScriptedSMTP) -> None:
    """The inner task's end does not make the outer one's further calls its own."""
    inner = []

    def more() -> None:
        inner.append(jobs.confirm.enqueue(2))
        jobs.confirm.call(3)

    jobs.inside[1] = more
    outer = jobs.confirm.enqueue(1)
    assert [value(result)["order"] for result in (outer, *inner)] == [1, 2]
    assert [entry(jobs.confirm, n).owner for n in (1, 2)] == [outer.id, inner[0].id]
    assert entry(jobs.confirm, 3).owner.startswith("direct-")
    assert len(server.accepted) == 3


def test_a_decorator_above_that_calls_again(jobs: Any, server: ScriptedSMTP) -> None:
    """The second attempt is the same task's."""
    result = jobs.retried.enqueue(1)
    assert value(result) == "sent"
    assert entry(jobs.retried, 1).owner == result.id
    assert (len(server.accepted), len(jobs.bodies)) == (1, 2)


# -- what goes wrong ---------------------------------------------------------------------------------------


def fail() -> None:
    """Raise what a body may raise."""
    raise ValueError("rendering failed")


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


# -- the other backends ------------------------------------------------------------------------------------


def test_the_dummy_backend_does_nothing(jobs: Any, server: ScriptedSMTP) -> None:
    """Users' tests look at what was enqueued: nothing runs, nothing is claimed."""
    result = jobs.confirm.using(backend="dummy").enqueue(1)
    assert result.status == "READY"
    assert entry(jobs.confirm, 1) is None
    assert value(jobs.confirm.enqueue(1))["order"] == 1


@pytest.mark.django_db(transaction=True)
def test_immediate_inside_a_transaction_on_sqlite(jobs: Any, tracked: None, settings: Any) -> None:
    """There it is part of its caller: sent, and the record goes with the rollback, as for eager tasks."""
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port

        def enqueue_and_roll_back() -> None:
            with transaction.atomic():
                assert value(jobs.confirm.enqueue(1))["order"] == 1
                assert value(jobs.confirm.enqueue(1))["run"] == 1
                fail()

        with pytest.raises(ValueError, match="rendering"):
            enqueue_and_roll_back()
        assert len(server.accepted) == 1
        assert entry(jobs.confirm, 1) is None
