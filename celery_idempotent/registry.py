"""The tasks and functions that this process knows, and which email type is whose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .functions import Declared, known
from .options import email_type


def tasks(app: Any = None) -> Iterator[Any]:
    """Yield the idempotent tasks that ``app`` knows, by default the current Celery app."""
    from celery import current_app

    from .tasks import IdempotentTask

    for task in (app or current_app).tasks.values():
        if isinstance(task, IdempotentTask):
            yield task


def functions() -> list[Declared]:
    """Return the idempotent functions of other queues that have been imported."""
    return sorted(known, key=lambda declared: declared.name)


def by_email_type(app: Any = None) -> dict[str, Any]:
    """Return the task or function of each email type."""
    return {email_type(task): task for task in (*functions(), *tasks(app))}
