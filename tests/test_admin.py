"""The admin shows everything and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse

from celery_idempotent.core.entry import Recipient
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Asker, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage, SendAttempt
from celery_idempotent.stores import outbox
from celery_idempotent.stores.database import DatabaseStore

ASKER = Asker("1:" + "ab" * 32, "order-confirmation", "task-1", "worker@host", "order_id=7")
MODELS = [LogicalEmail, Delivery, SendAttempt, OutboxMessage]


@pytest.fixture
def email(db: None) -> LogicalEmail:
    """An email with one attempt and two recipients."""
    ledger = Ledger(DatabaseStore())
    targets = [("0", Recipient(c * 64, f"{c}***@example.com")) for c in "ab"]
    entry = ledger.claim(ASKER, Policy()).entry
    entry = ledger.begin(entry, targets, "<m@shop>", ASKER, Policy())
    replies = {
        targets[0]: Reply(DeliveryStatus.ACCEPTED, 250, "queued"),
        targets[1]: Reply(DeliveryStatus.DEFERRED, 450, "greylisted"),
    }
    ledger.settle(entry, replies, "<m@shop>", ASKER, Policy())
    email = LogicalEmail.objects.get()
    owed = OutboxMessage(task_id="task-1", task="t", key=email.key, label=email.label, payload="a secret")
    outbox.add("default", [owed])
    return email


@pytest.mark.parametrize("model", MODELS)
def test_lists_can_be_searched_and_filtered(admin_client: Any, email: LogicalEmail, model: Any) -> None:
    """Every model has a list, and what operators know (key, task id, Message-ID, mask) finds the email."""
    url = reverse(f"admin:celery_idempotent_{model._meta.model_name}_changelist")
    assert admin_client.get(url).status_code == 200
    found = admin_client.get(url, {"q": email.key})
    assert found.context["cl"].result_count >= 1
    assert admin_client.get(url, {"q": "nonsense"}).context["cl"].result_count == 0


def test_the_page_of_an_email_has_its_attempts_and_recipients(admin_client: Any, email: LogicalEmail) -> None:
    """One page answers the customer's question."""
    url = reverse("admin:celery_idempotent_logicalemail_change", args=[email.pk])
    page = admin_client.get(url).content.decode()
    people = ("a***@example.com", "b***@example.com")
    for text in ("order_id=7", *people, "greylisted", "task-1", "worker@host", email.key):
        assert text in page


@pytest.mark.parametrize("model", MODELS)
def test_nothing_can_be_changed(admin_client: Any, email: LogicalEmail, model: Any) -> None:
    """Not added, not changed, not deleted, not even by a superuser."""
    name = f"admin:celery_idempotent_{model._meta.model_name}"
    row = model.objects.first()
    assert admin_client.get(reverse(f"{name}_add")).status_code == 403
    assert admin_client.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert admin_client.post(reverse(f"{name}_change", args=[row.pk]), {"status": "sent"}).status_code == 403
    assert "_save" not in admin_client.get(reverse(f"{name}_change", args=[row.pk])).content.decode()
    assert model.objects.count() >= 1


def test_arguments_are_shown_to_nobody(admin_client: Any, email: LogicalEmail) -> None:
    """They can hold reset tokens."""
    row = OutboxMessage.objects.get()
    url = reverse("admin:celery_idempotent_outboxmessage_change", args=[row.pk])
    page = admin_client.get(url).content.decode()
    assert row.label in page
    assert "a secret" not in page
