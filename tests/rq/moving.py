"""The code of ``docs/how-to/move-between-queues.md``: one email, which either queue may send."""

# ruff: noqa: I001
from __future__ import annotations

from tests.rq import app as _app  # noqa: F401  (Django has to be set up first)

# -- the how-to begins
from celery import shared_task
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.contrib.rq import idempotent_email

ORDER_CONFIRMATION = {"email_type": "order-confirmation", "key_fields": ("order_id", "to")}


def send_confirmation(order_id, to):
    EmailMessage("Your order", f"Order {order_id}", to=[to]).send()
    return f"confirmed {order_id}"


@idempotent_email(**ORDER_CONFIRMATION)
def order_confirmation(order_id, to):  # RQ
    return send_confirmation(order_id, to)


@shared_task(base=IdempotentEmailTask, name="order_confirmation", **ORDER_CONFIRMATION)
def order_confirmation_task(order_id, to):  # Celery
    return send_confirmation(order_id, to)


# -- the how-to ends
