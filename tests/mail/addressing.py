"""A task with every field that a message can be addressed by, and what is on record of each recipient."""

from __future__ import annotations

from typing import Any

from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from tests.support.mailserver import ScriptedSMTP

app = Celery("recipients", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="recipients", on_mismatch="ignore", max_retries=0)
def send(n: int, to: list[str], cc: Any = (), bcc: Any = (), body: str = "text", **more: Any) -> str:
    EmailMessage("Hi", body, to=to, cc=cc, bcc=bcc, **more).send()
    return "sent"


def run(server: ScriptedSMTP, settings: Any, *args: Any, **kwargs: Any) -> Any:
    settings.EMAIL_PORT = server.port
    return send.apply((1, *args), kwargs)


def rows() -> list[tuple[str, str, int | None, str]]:
    return [(d.recipient.shown, d.status.value, d.code, d.detail) for d in send.entry_for(1, []).deliveries]
