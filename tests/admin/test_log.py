"""P7: what operators write into Django's own log of the admin names nobody, as the ledger's audit does not."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.models import LogicalEmail
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.testing import hold

REASON = "ann@example.com has asked for it"


@pytest.fixture
def failed(db: None, settings: Any) -> LogicalEmail:
    """An email that was given up."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "database"}
    ledger, claimant = Ledger(DatabaseStore()), Claimant("1:" + "ab" * 32, "receipt", "task-1")
    hold(ledger, ledger.claim(claimant, Policy()).entry).fail("SMTPException")
    return LogicalEmail.objects.get()


@pytest.mark.parametrize("where", ["page", "list"])
def test_an_address_in_a_reason_is_masked(admin_client: Any, failed: LogicalEmail, where: str) -> None:
    """Nobody would look for an address there when it is to be forgotten."""
    if where == "page":
        url = reverse("admin:celery_idempotent_logicalemail_decide", args=[failed.pk])
        data = {"decision": "cancel", "reason": REASON, "version": failed.version}
    else:
        url = reverse("admin:celery_idempotent_logicalemail_changelist")
        data = {"action": "cancel", "reason": REASON, "_selected_action": failed.pk}
    assert admin_client.post(url, data).status_code == 302
    failed.refresh_from_db()
    assert failed.status == "cancelled"
    logged = LogEntry.objects.get().change_message
    assert "a***@example.com has asked for it" in logged
    assert "ann@" not in logged
