"""The tasks and functions that this process knows, and which email type is whose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from celery import Celery

from ..email_types.email_type import name_of
from ..email_types.options import Declaration
from ..execution.functions import Declared, known

if TYPE_CHECKING:
    from .idempotent import IdempotentTask

_SKIP_CHECKS = "CELERY_SKIP_CHECKS"
"""Environment variable of Celery's own, set by ``celery --skip-checks``."""


def tasks(app: Celery | None = None) -> Iterator[IdempotentTask]:
    """Yield the idempotent tasks that ``app`` knows, by default the current Celery app."""
    from celery.app import app_or_default

    from .idempotent import IdempotentTask

    for task in app_or_default(app).tasks.values():
        if isinstance(task, IdempotentTask):
            yield task


def import_tasks() -> Exception | None:
    """Import the modules in which the current Celery app looks for tasks, and return what stopped that.

    A worker does so when it starts. Any other process knows only the tasks that something has imported.
    """
    from celery.app import app_or_default

    return _import_tasks(app_or_default())


@lru_cache(maxsize=8)
def _import_tasks(app: Celery) -> Exception | None:
    try:
        with _without_checks():
            app.loader.import_default_modules()
    except Exception as error:
        return error
    return None


@contextmanager
def _without_checks() -> Iterator[None]:
    """Keep Celery from running Django's checks before it imports: one of them may have brought us here."""
    before = os.environ.get(_SKIP_CHECKS)
    os.environ[_SKIP_CHECKS] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SKIP_CHECKS]
        else:
            os.environ[_SKIP_CHECKS] = before


def functions() -> list[Declared]:
    """Return the idempotent functions of other queues that have been imported."""
    return sorted(known, key=lambda declared: declared.name)


def by_email_type(app: Celery | None = None) -> dict[str, Declaration]:
    """Return the task or function of each email type."""
    return {name_of(task): task for task in (*functions(), *tasks(app))}
