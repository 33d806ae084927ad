"""Functions that tests of a doubt about the first of two mails have called in the project."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.test import Client

from celery_idempotent.stores.factory import get_ledger
from tests.acceptance.app import app, pair


def look(order: int) -> list[Any]:
    """Return the entry's status, whether its body is unfinished, its result, and its deliveries' statuses."""
    entry = pair.entry_for(order)
    return [entry.status, entry.unfinished, entry.result, [delivery.status for delivery in entry.deliveries]]


def wait_for_the_deadline(order: int) -> None:
    """Wait until the deadline of the hand-over has passed, by the ledger's clock."""
    store = get_ledger(app).store
    while (found := store.get(pair.key_for(order))).now <= found.entry.deadline:
        time.sleep(0.1)


def post_to_the_webhook(body: str, headers: dict[str, str]) -> None:
    """Deliver what Postmark says."""
    settings.ALLOWED_HOSTS = ["testserver"]
    posted = Client().post(
        "/anymail/postmark/tracking/", body, content_type="application/json", headers=headers
    )
    assert posted.status_code == 200, posted


def resolve(order: int) -> None:
    """Decide as an operator: it was sent."""
    reason = "it is in Postmark's log"
    call_command("idempotency", "resolve", pair.key_for(order), "--sent", "--reason", reason)
