"""Where the admin's pages are, what their form sends, and what they tell."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from celery_idempotent.ledger.policy import Claimant
from celery_idempotent.models import LogicalEmail

CLAIMANT = Claimant("1:" + "ab" * 32, "order-confirmation", "task-1", "worker@host", "order_id=7")
LIST = "/admin/celery_idempotent/logicalemail/"


def page_of(email: LogicalEmail) -> str:
    return reverse("admin:celery_idempotent_logicalemail_change", args=[email.pk])


def decision_on(email: LogicalEmail) -> str:
    return reverse("admin:celery_idempotent_logicalemail_decide", args=[email.pk])


def form(email: LogicalEmail, **changes: Any) -> dict[str, Any]:
    return {"decision": "resolve_sent", "reason": "seen in the log", "version": email.version, **changes}


def told(response: Any) -> str:
    return " ".join(str(message) for message in response.context["messages"])
