"""Django tasks on the backends that need no worker, immediate and dummy, and direct calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import transaction

from celery_idempotent import InProgress, KeyFieldError, Status
from celery_idempotent.signals import duplicate_suppressed
from tests.django_tasks.told import entry, fail, failure, seed, value
from tests.support.mailserver import ScriptedSMTP

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
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "LEDGER": "database"}
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
