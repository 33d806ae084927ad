"""Anymail's own test backend: what it is to say of each recipient, and what it was given."""

from __future__ import annotations

from typing import Any

from anymail.message import AnymailRecipientStatus
from django.core import mail


def answer(**said: str) -> Any:
    """Return what Anymail's test backend is to say, by the name before the @ of each address."""
    return {
        "recipient_status": {
            f"{name}@example.com": AnymailRecipientStatus(f"id-{name}", status) for name, status in said.items()
        }
    }


def offered() -> list[list[str]]:
    """Return whom each message was for that the backend was given."""
    return [message.recipients() for message in mail.outbox]


def params(place: int = -1) -> Any:
    return mail.outbox[place].anymail_test_params
