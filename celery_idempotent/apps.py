"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class CeleryIdempotentConfig(AppConfig):
    """Adds the ledger's own database connection and the system checks."""

    name = "celery_idempotent"
    verbose_name = "Idempotent email"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what has to be there before the first task or request."""
        from . import checks, maintenance, receivers  # noqa: F401
        from .wiring import add_own_connection

        add_own_connection()
