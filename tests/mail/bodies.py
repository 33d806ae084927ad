"""Tasks whose bodies a test writes itself, and how they are run against a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from tests.support.mailserver import ScriptedSMTP

app = Celery("bodies", broker="memory://", backend="cache+memory://", set_as_current=False)


def task(name: str, **options: Any) -> Callable[[Any], Any]:
    return app.task(base=IdempotentEmailTask, key_fields=("n",), name=name, shared=False, **options)


def message(*to: str, **more: Any) -> EmailMessage:
    return EmailMessage("Hi", "text", to=list(to or ["ann@example.com"]), **more)


def run(server: ScriptedSMTP, settings: Any, called: Any, *args: Any) -> Any:
    settings.EMAIL_PORT = server.port
    server.forget_calls()
    return called.apply((1, *args))
