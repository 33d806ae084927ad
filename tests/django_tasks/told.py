"""What tests ask of tasks that run in their own process."""

from __future__ import annotations

from typing import Any

from tests.support.seeded_entries import Seed


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


def fail() -> None:
    """Raise what a body may raise."""
    raise ValueError("rendering failed")
