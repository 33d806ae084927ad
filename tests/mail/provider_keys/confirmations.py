"""The tasks whose mail a provider recognises, each by what it does about a doubt."""

from __future__ import annotations

import random
from typing import Any

from celery import Celery
from cryptography.fernet import Fernet
from django.core.mail import EmailMessage, EmailMultiAlternatives

from celery_idempotent import IdempotentEmailTask, Verdict
from tests.support.mailserver import ScriptedSMTP

app = Celery("provider-keys", broker="memory://", backend="cache+memory://", set_as_current=False)
KEY = Fernet.generate_key().decode()
ANN, BOB = "ann@example.com", "bob@example.com"
VERDICTS: list[Verdict] = []


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="confirmation")
def confirm(order: int, to: list[str]) -> str:
    """Its content differs from run to run, as a rendered date or a MIME boundary does."""
    message = EmailMultiAlternatives("Your order", f"Order {order}, {random.random()}\n.dots\n", to=to)
    message.attach_alternative("<p>Your order</p>", "text/html")
    if to:
        message.send()
    return f"sent {order}"


ONCE: dict[str, Any] = {"base": IdempotentEmailTask, "key_fields": ("order",), "max_retries": 0}


def _send(order: int, to: list[str]) -> str:
    EmailMessage("Your order", f"Order {order}, {random.random()}", to=to).send()
    return "sent"


resent = app.task(name="resent", in_doubt="resend", **ONCE)(_send)
asked_about = app.task(name="asked-about", in_doubt=lambda entry: VERDICTS[-1], **ONCE)(_send)


def configured(settings: Any, **changes: Any) -> None:
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, **changes}


def run(*to: str) -> Any:
    return confirm.apply((1, list(to or [ANN])))


def send(server: ScriptedSMTP, settings: Any, *to: str) -> Any:
    settings.EMAIL_PORT = server.port
    return run(*to)


def entry() -> Any:
    return confirm.entry_for(1, [])
