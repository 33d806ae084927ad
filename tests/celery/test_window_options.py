"""A window's options: what is usable is in the key, what means nothing is refused when the task is called."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import IdempotentTask, KeyFieldError
from celery_idempotent.email_types.job_note import HEADER, JobNote

app = Celery("window-options", broker="memory://", backend="cache+memory://", set_as_current=False)


def test_fixed_windows_take_the_events_own_time() -> None:
    """The bucket is in the key; without a usable time the call is refused."""

    @app.task(
        base=IdempotentTask,
        key_fields=("user",),
        name="digest",
        window=timedelta(days=1),
        window_mode="fixed",
        event_time_field="at",
    )
    def digest(user: int, at: Any) -> None: ...

    assert digest.key_for(1, "2026-01-01T00:00:00+00:00") == digest.key_for(1, "2026-01-01T23:59:59+00:00")
    assert digest.key_for(1, "2026-01-01T00:00:00+00:00") != digest.key_for(1, "2026-01-02T00:00:00+00:00")
    for wrong in (None, "soon", 5, "2026-01-01T00:00:00"):
        with pytest.raises(KeyFieldError):
            digest.key_for(1, wrong)


@pytest.mark.parametrize("window", [timedelta(0), timedelta(days=-1), 3600])
@pytest.mark.parametrize("mode", ["sliding", "fixed"])
def test_a_window_that_is_none_is_refused_when_the_task_is_called(window: Any, mode: str) -> None:
    """Zero, negative or no duration at all, in a project that silences its checks: before anything is sent."""
    options = {"window": window, "window_mode": mode, "event_time_field": "at"}

    @app.task(
        base=IdempotentTask, key_fields=("user",), name=f"no-window-{mode}-{window}", shared=False, **options
    )
    def windowed(user: int, at: Any) -> None: ...

    for call in (windowed.delay, windowed.enqueue, windowed.key_for):
        with pytest.raises(KeyFieldError, match=r"window is .* positive timedelta"):
            call(1, "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize("window", [timedelta(0), timedelta(days=-1), 3600])
@pytest.mark.parametrize("mode", ["sliding", "fixed"])
def test_a_window_that_is_none_is_refused_in_the_worker_too(memory_ledger: Any, window: Any, mode: str) -> None:
    """P1: deployed while messages wait that have their keys. Nothing is sent, and each of them says why."""
    ran: list[int] = []
    good = {"window": timedelta(days=1), "window_mode": mode, "event_time_field": "at"}

    @app.task(base=IdempotentTask, key_fields=("user",), name=f"waiting-{mode}-{window}", **good)
    def waiting(user: int, at: Any) -> None:
        ran.append(user)

    args = (1, "2026-01-01T00:00:00+00:00")
    notes = [JobNote.of(waiting._identify(args, {}), f"task-{n}").to_carry() for n in range(4)]
    waiting.apply(args, task_id="first")
    waiting.window = window
    for note in notes:
        refused = waiting.apply(args, task_id=note["id"], headers={HEADER: note}).result
        assert isinstance(refused, KeyFieldError)
        told = f"waiting-{mode}-{window}: window is {window!r}; it has to be a positive timedelta"
        assert str(refused).startswith(told)
    assert ran == [1]
    assert memory_ledger.store.get(notes[0]["key"]).entry.arrivals == 1, "the ledger was not asked"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window_mode": "fixd"}, r"window_mode is 'fixd'; it has to be 'sliding' or 'fixed'"),
        ({"window_mode": "fixd", "window": timedelta(1)}, r"window_mode is 'fixd'"),
        ({"window_mode": "fixed", "event_time_field": "at"}, r"window is not set.* length of its buckets"),
    ],
    ids=["mistyped", "mistyped, with a window", "fixed without a window"],
)
def test_a_window_mode_that_means_nothing_is_refused_when_the_task_is_called(
    request: Any, options: dict[str, Any], told: str
) -> None:
    """Not taken for a sliding window, nor for once and for all: the calls of the next day would be lost."""
    name = f"moded-{request.node.callspec.id}"

    @app.task(base=IdempotentTask, key_fields=("user",), name=name, **options)
    def moded(user: int, at: Any) -> None: ...

    for call in (moded.delay, moded.enqueue, moded.key_for):
        with pytest.raises(KeyFieldError, match=rf"{name}: {told}"):
            call(1, "2026-01-01T00:00:00+00:00")


def test_a_fixed_window_without_event_time_is_refused_when_the_task_is_called() -> None:
    """It names the option that is missing."""

    @app.task(
        base=IdempotentTask, key_fields=("user",), name="timeless", window=timedelta(1), window_mode="fixed"
    )
    def timeless(user: int) -> None: ...

    with pytest.raises(KeyFieldError, match=r"timeless.*event_time_field"):
        timeless.enqueue(1)
