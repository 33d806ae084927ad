"""A task whose mail goes through a provider, what is on record of it, and what that provider has got."""

from __future__ import annotations

import base64
import email
import json
import random
from typing import Any
from urllib.parse import parse_qsl

from celery import Celery
from django.core.mail import EmailMultiAlternatives

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.ledger.status import DeliveryStatus
from tests.support.providers import API

app = Celery("esp", broker="memory://", backend="cache+memory://", set_as_current=False)
ANN, BOB, CAT = PEOPLE = ["ann@example.com", "bob@example.com", "cat@example.com"]
ACCEPTED, DEFERRED, REFUSED, IN_DOUBT = (
    DeliveryStatus.ACCEPTED,
    DeliveryStatus.DEFERRED,
    DeliveryStatus.REFUSED,
    DeliveryStatus.IN_DOUBT,
)


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="receipt")
def receipt(order: int, to: list[str], **attributes: Any) -> str:
    """Its content differs from run to run."""
    message = EmailMultiAlternatives("Your receipt", f"Order {order}, {random.random()}", to=to)
    for name, value in attributes.items():
        setattr(message, name, value)
    message.send()
    return "sent"


def send(*to: str, order: int = 1, **attributes: Any) -> Any:
    return receipt.apply((order, list(to or [ANN])), attributes)


def entry(order: int = 1) -> Any:
    return receipt.entry_for(order, [])


def statuses(order: int = 1) -> list[DeliveryStatus]:
    return [delivery.status for delivery in entry(order).deliveries]


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
        case "brevo":
            return dict(json.loads(body["headers"]["X-Mailin-custom"]))
        case "resend":
            return dict(json.loads(body["headers"]["X-Metadata"]))
        case _:
            raw = base64.b64decode(body["Content"]["Raw"]["Data"])
            text = email.message_from_bytes(raw)["X-Metadata"]
            return dict(json.loads(text.replace("\r\n", "").replace("\n", "")))
