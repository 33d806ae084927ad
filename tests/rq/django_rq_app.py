"""A project with django-rq: its decorator over ours, as the how-to shows it."""

from __future__ import annotations

import django_rq
from django.core.mail import EmailMessage
from django.db import transaction  # noqa: F401
from rq import Retry

from celery_idempotent.contrib.rq import idempotent_email
from tests.acceptance import crash
from tests.rq.app import error_of, outcome, status_of  # noqa: F401


@django_rq.job("default", retry=Retry(max=3))
@idempotent_email(key_fields=("order_id", "to"), lease=2, send_timeout=2)
def order_confirmation(order_id: int, to: str) -> str:
    """One mail per order and address."""
    EmailMessage("Your order", f"Order {order_id}", to=[to]).send()
    crash.at("after-send")
    return f"sent {order_id}"
