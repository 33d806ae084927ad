"""The shop's mails. Each task says with ``key_fields`` what makes two calls the same mail."""

import hashlib
from datetime import timedelta
from smtplib import SMTPException
from typing import Any

from celery import shared_task
from django.contrib.auth import get_user_model
from django.core.mail import EmailMessage, get_connection
from django.utils import timezone

from celery_idempotent import IdempotentEmailTask

from .mishaps import around_sending

AGAIN: dict[str, Any] = {
    "bind": True,
    "autoretry_for": (SMTPException, OSError),
    "retry_backoff": True,
    "retry_backoff_max": 3,  # the demo is in a hurry
    "max_retries": 8,
    "acks_late": True,
    "reject_on_worker_lost": True,
}
"""How every mail of this shop is tried again, with the ledger and without it."""
ONCE: dict[str, Any] = {**AGAIN, "base": IdempotentEmailTask, "lease": 5, "send_timeout": 5}


def _token_id(token: str, to: str) -> str:
    """Return what stands for a token in the ledger, in logs and in Flower: it opens nothing."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


@shared_task(**ONCE, key_function=_token_id, email_type="password-reset", fingerprint_fields=())
def password_reset(self: Any, token: str, to: str) -> None:
    """One mail per token: who asks again gets a new token, and a new mail."""
    EmailMessage("Your new password", f"https://shop.example/reset/{token}", to=[to]).send()


@shared_task(**ONCE, key_fields=("user_id", "step"), email_type="onboarding")
def onboarding(self: Any, user_id: int, step: str, to: str) -> None:
    """One mail per user and step, however often the scheduler finds the user."""
    EmailMessage(f"Welcome: {step}", f"Hello, customer {user_id}! Today: {step}.", to=[to]).send()


@shared_task(ignore_result=True)
def welcome_new_customers() -> None:
    """Welcome who joined within a day. Beat asks every few seconds; whom it has found, the ledger knows."""
    since = timezone.now() - timedelta(days=1)
    for user in get_user_model().objects.filter(date_joined__gt=since).exclude(email=""):
        onboarding.delay(user.pk, "first-steps", user.email)


@shared_task(**ONCE, key_fields=("order_id", "to"), email_type="order-confirmation")
def order_confirmation(self: Any, order_id: int, to: str) -> dict[str, Any]:
    """One mail per order and customer."""
    with around_sending(self.request):
        EmailMessage(*confirmation(order_id), to=[to]).send()
    return {"order_id": order_id}


@shared_task(**AGAIN, name="shop.plain_confirmation")
def plain_confirmation(self: Any, order_id: int, to: str) -> dict[str, Any]:
    """The same mail without the ledger, to compare with."""
    with around_sending(self.request):
        smtp = get_connection("django.core.mail.backends.smtp.EmailBackend")
        EmailMessage(*confirmation(order_id), to=[to], connection=smtp).send()
    return {"order_id": order_id}


def confirmation(order_id: int) -> tuple[str, str]:
    """Return the subject and the text of an order's confirmation."""
    return f"Order {order_id}", f"Thank you! Order {order_id} is on its way."
