"""A small shop that sends password resets, onboarding mails and order confirmations."""

from .celery import app as celery_app

__all__ = ["celery_app"]
