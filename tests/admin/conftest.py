"""An email for the admin to show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Reply
from celery_idempotent.ledger.policy import Policy
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.models import LogicalEmail, OutboxMessage
from celery_idempotent.outbox import rows as outbox_rows
from celery_idempotent.stores import factory
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.testing import hold
from tests.admin.pages import CLAIMANT


@pytest.fixture
def email(db: None, settings: Any) -> LogicalEmail:
    """An email with one attempt and two recipients."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "database"}
    ledger = Ledger(DatabaseStore())
    targets = [("0", Recipient(c * 64, f"{c}***@example.com")) for c in "ab"]
    entry = ledger.claim(CLAIMANT, Policy()).entry
    entry = hold(ledger, entry, CLAIMANT, Policy()).begin(targets, "<m@shop>")
    replies = {
        targets[0]: Reply(DeliveryStatus.ACCEPTED, 250, "queued"),
        targets[1]: Reply(DeliveryStatus.DEFERRED, 450, "greylisted"),
    }
    hold(ledger, entry, CLAIMANT, Policy()).settle(replies, "<m@shop>")
    email = LogicalEmail.objects.get()
    owed = OutboxMessage(task_id="task-1", task="t", key=email.key, label=email.label, payload="a secret")
    outbox_rows.add("default", [owed])
    return email


# -- decisions ---------------------------------------------------------------------------------------------


@pytest.fixture
def doubtful(email: LogicalEmail) -> LogicalEmail:
    """An email in doubt."""
    store = factory.get_ledger().store
    entry = store.get(email.key).entry  # type: ignore[union-attr]
    store.swap(replace(entry, status=Status.IN_DOUBT, deadline=None), entry.version)
    email.refresh_from_db()
    return email
