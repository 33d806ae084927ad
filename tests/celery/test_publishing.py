"""``dedupe_on_publish``, and what a publish that fails leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery, chain, group
from kombu.exceptions import OperationalError

from celery_idempotent import IdempotentTask, LedgerUnavailable, signals
from celery_idempotent.stores import factory
from tests.support.servers import free_port

app = Celery("publishing", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentTask, key_fields=("n",), name="asked", dedupe_on_publish=True)
def asked(n: int, text: str = "") -> str:
    return f"done {n}"


@app.task(
    base=IdempotentTask, key_fields=("n",), name="asked-again", dedupe_on_publish=True, window=timedelta(days=1)
)
def asked_again(n: int) -> str:
    return "reminded"


@pytest.fixture(autouse=True)
def published(memory_ledger: Any) -> Iterator[Any]:
    """Counts the messages in the broker."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel

        def count() -> int:
            return int(channel.queue_declare("celery", durable=True).message_count)

        channel.queue_declare("celery", durable=True)
        channel.queue_purge("celery")
        yield count


def done(task: Any, *args: Any) -> Any:
    """Have it done by a task whose result is in the backend."""
    result = task.apply(args)
    app.backend.store_result(result.id, result.result, "SUCCESS")
    return result


def test_what_is_sent_is_answered_without_a_message(published: Any) -> None:
    """By the first task's own result; the signal names it."""
    heard: list[Any] = []

    def listen(**said: Any) -> None:
        heard.append(said["first_task_id"])

    first = done(asked, 1)
    signals.duplicate_suppressed.connect(listen)
    try:
        again = asked.delay(1)
    finally:
        signals.duplicate_suppressed.disconnect(listen)
    assert (again.id, again.get(), published()) == (first.id, "done 1", 0)
    assert heard == [first.id]
    asked.delay(2)
    assert published() == 1


def test_what_waits_for_the_message_gets_it(published: Any) -> None:
    """Links, chains, groups: their continuation travels with the message, so a worker has to see it."""
    done(asked, 1)
    asked.apply_async((1,), link=asked.si(5))
    assert published() == 1
    chain(asked.si(1), asked.si(6)).delay()
    assert published() == 2
    group(asked.si(1), asked.si(7)).delay()
    assert published() == 4


def test_an_id_that_somebody_waits_for_is_not_answered_by_another(published: Any) -> None:
    """A given task id, `replace`, a retry: the answer has to come under that id."""
    done(asked, 1)
    asked.apply_async((1,), task_id="mine")
    assert published() == 1
    frozen = asked.si(1)
    frozen.freeze()
    frozen.apply_async()
    assert published() == 2


def test_a_result_backend_that_is_down_or_disabled(published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down: published. No results at all: the first task's id is as good as any."""
    done(asked, 1)

    def down(*_: Any, **__: Any) -> Any:
        raise ConnectionError("down")

    with monkeypatch.context() as broken:
        broken.setattr(app.backend, "get_task_meta", down)
        asked.delay(1)
    assert published() == 1
    monkeypatch.setattr(asked, "ignore_result", True)
    assert asked.delay(1).get() is None
    assert published() == 1


def test_a_first_result_that_failed_is_not_handed_out(published: Any) -> None:
    """The email is sent, but the worker was lost before it could say so: a worker answers from the ledger."""
    first = asked.apply((1,))
    app.backend.store_result(first.id, ValueError("lost"), "FAILURE")
    asked.delay(1)
    assert published() == 1


def test_what_is_to_run_after_the_window_is_published(published: Any) -> None:
    """Sent today, and asked for in two days: that is for the claim to decide, then."""
    done(asked_again, 1)
    asked_again.apply_async((1,), countdown=2 * 86400)
    assert published() == 1


def test_a_result_that_has_expired_is_replayed_by_a_worker(published: Any) -> None:
    """The ledger remembers for months, the result backend for a day: nobody may wait for ever."""
    first = asked.apply((1,))
    again = asked.delay(1)
    assert again.id != first.id
    assert published() == 1


def test_a_window_that_has_passed_is_published(published: Any, memory_ledger: Any) -> None:
    """The rules are those of a claim."""
    done(asked_again, 1)
    asked_again.delay(1)
    assert published() == 0
    clock = memory_ledger.store.clock
    memory_ledger.store.clock = lambda: clock() + timedelta(days=1)
    asked_again.delay(1)
    assert published() == 1


def test_a_ledger_that_is_down_is_the_workers_problem(
    published: Any, memory_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing does not depend on it."""
    done(asked, 1)

    def down(key: str) -> Any:
        raise LedgerUnavailable("down")

    monkeypatch.setattr(memory_ledger.store, "get", down)
    asked.delay(1)
    assert published() == 1


def test_a_publish_that_fails_leaves_the_key_free() -> None:
    """Nothing is claimed before a worker starts the body."""
    gone = Celery("gone", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    gone.conf.broker_transport_options = {"max_retries": 0}

    @gone.task(base=IdempotentTask, key_fields=("n",), name="unpublished", dedupe_on_publish=True)
    def unpublished(n: int) -> str:
        return "done"

    with pytest.raises(OperationalError):
        unpublished.apply_async((1,), retry=False)
    assert unpublished.entry_for(1) is None
    assert unpublished.apply((1,)).get() == "done"


@pytest.mark.parametrize(
    ("ledger", "backend", "wanted"),
    [
        ("auto", "redis://127.0.0.1:1/0", "RedisStore"),
        ("auto", "sentinel://127.0.0.1:1/0", "RedisStore"),
        ("auto", "django-db", "DatabaseStore"),
        ("auto", "rpc://", "DatabaseStore"),
        ("auto", "cache+memory://", "DatabaseStore"),
        ("auto", None, "DatabaseStore"),
        ("database", "redis://127.0.0.1:1/0", "DatabaseStore"),
        ("redis://127.0.0.1:1/0", "django-db", "RedisStore"),
        ("memory://", "redis://127.0.0.1:1/0", "MemoryStore"),
    ],
)
def test_where_the_ledger_is(settings: Any, ledger: str, backend: str | None, wanted: str) -> None:
    """``auto`` follows Celery's result backend; a choice is a choice. No server is asked."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": ledger}
    factory.forget_ledgers()
    somewhere = Celery("somewhere", backend=backend, set_as_current=False)
    assert type(factory.get_ledger(somewhere).store).__name__ == wanted
    assert (factory.get_ledger(somewhere).mirror is not None) == (wanted == "RedisStore")
