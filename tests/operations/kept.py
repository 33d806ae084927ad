"""The task whose emails are kept."""

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_idempotent import IdempotentTask


def task(app: Celery, **options: Any) -> Any:
    def body(n: int) -> None: ...

    return app.task(base=IdempotentTask, name="kept", shared=False, key_fields=("n",), **options)(body)
