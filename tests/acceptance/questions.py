"""Functions that tests have called in a process of the project: publish a task, and look what became of it.

A task goes by its name in `tests.acceptance.app`.
"""

from __future__ import annotations

from typing import Any

from tests.acceptance import app as shop


def task_of(name: str) -> Any:
    """Return the task of this name."""
    return getattr(shop, name)


def publish(task: str, *args: Any, **options: Any) -> str:
    """Publish one task, with ``apply_async``'s options, and return its id."""
    return str(task_of(task).apply_async(args, **options).id)


def run(task: str, *args: Any, **kwargs: Any) -> Any:
    """Publish one task and return its result."""
    return task_of(task).delay(*args, **kwargs).get(timeout=60)


def run_as(task_id: str, task: str, *args: Any) -> Any:
    """Publish one task under this id and return its result."""
    return task_of(task).apply_async(args, task_id=task_id).get(timeout=60)


def run_all(calls: list[list[Any]]) -> list[Any]:
    """Publish each of ``calls``, a task and its arguments, and only then wait; return their results."""
    results = [task_of(task).delay(*args) for task, *args in calls]
    return [result.get(timeout=80) for result in results]


def wait_for_result(task_id: str, timeout: float = 60) -> Any:
    """Return the result of the task with this id."""
    return shop.app.AsyncResult(task_id).get(timeout=timeout)


def wait_for_end(task_id: str, timeout: float = 60) -> Any:
    """Return the result of the task with this id, or the name of its error."""
    return value_of(shop.app.AsyncResult(task_id), timeout)


def value_of(result: Any, timeout: float = 60) -> Any:
    """Return the value of ``result``, or the name of its error."""
    try:
        return result.get(timeout=timeout)
    except Exception as error:
        return type(error).__name__


def find_error(task: str, *args: Any) -> list[str]:
    """Publish one task that has to fail, and return its error's name and text."""
    result = task_of(task).delay(*args)
    try:
        value = result.get(timeout=60)
    except Exception as error:
        return [type(error).__name__, str(error)]
    raise AssertionError(f"{task} returned {value!r}")


def find_status(task: str, *args: Any) -> str | None:
    """Return the status of the entry, or None if there is none."""
    entry = task_of(task).entry_for(*args)
    return entry.status.value if entry else None


def run_and_look(task: str, *args: Any) -> list[Any]:
    """Publish one task; return its value or its error's name, the entry's status, and the task's id."""
    result = task_of(task).delay(*args)
    value = value_of(result)
    return [value, find_status(task, *args), result.id]


def run_and_look_closer(task: str, *args: Any) -> list[Any]:
    """Return the value or the error's name, the entry's status, its deliveries' statuses, the task's state."""
    result = task_of(task).delay(*args)
    value = value_of(result)
    entry = task_of(task).entry_for(*args)
    return [value, entry.status, sorted(delivery.status for delivery in entry.deliveries), result.status]


def count_attempts(task: str, *args: Any) -> list[Any]:
    """Run one task; return its result, the entry's status, and how often it was attempted."""
    value = run(task, *args)
    entry = task_of(task).entry_for(*args)
    return [value, entry.status, entry.attempts]
