"""Bodies that swallow what goes wrong with their mail."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask

app = Celery("swallowed", broker="memory://", backend="cache+memory://", set_as_current=False)
names = itertools.count()
LATER, NO = "450 4.2.0 later", "550 5.1.1 no"


def task(**options: Any) -> Callable[[Any], Any]:
    named = {"base": IdempotentEmailTask, "key_fields": ("n",), "name": f"swallowing-{next(names)}"}
    return app.task(**named, **options)


def quietly(*to: str, connection: Any = None, **more: Any) -> None:
    """Send, and swallow whatever comes."""
    people = list(to or ["ann@example.com"])
    try:
        EmailMessage("Hi", "text", to=people, connection=connection, **more).send()
    except Exception:
        return


def quiet_task(**options: Any) -> Any:
    @task(**options)
    def quiet(n: int, *to: str) -> str:
        quietly(*to)
        return "done"

    return quiet
