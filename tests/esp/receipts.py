"""A task whose mail goes through a provider, and what that provider has got of it."""

from __future__ import annotations

import base64
import email
import json
from typing import Any
from urllib.parse import parse_qsl

from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from tests.support.providers import API

app = Celery("webhooks", broker="memory://", backend="cache+memory://", set_as_current=False)
ANN, BOB = "ann@example.com", "bob@example.com"


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="receipt")
def receipt(order: int, to: list[str], merge: bool = False) -> str:
    message = EmailMessage("Your receipt", "text", to=to)
    if merge:
        message.merge_data = {}
    message.send()
    return "sent"


def entry(order: int = 1) -> Any:
    return receipt.entry_for(order, [])


def metadata(api: API, name: str) -> dict[str, str]:
    """Return what the provider got as metadata, from the newest request."""
    body = api.requests[-1].body
    match name:
        case "mailgun":
            return {name[2:]: value for name, value in parse_qsl(body) if name.startswith("v:")}
        case "postmark":
            return dict(body["Metadata"])
        case "sendgrid":
            return {**body["custom_args"], **body["personalizations"][0].get("custom_args", {})}
        case "resend":
            return dict(json.loads(body["headers"]["X-Metadata"]))
        case _:
            raw = base64.b64decode(body["Content"]["Raw"]["Data"])
            text = email.message_from_bytes(raw)["X-Metadata"]
            return dict(json.loads(text.replace("\r\n", "").replace("\n", "")))
