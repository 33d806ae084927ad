"""The Django app: connects the checks, the signals and the ledger's own connection when Django starts."""

from __future__ import annotations

from django.apps import AppConfig


class CeleryIdempotentConfig(AppConfig):
    """Adds the ledger's own database connection and the system checks."""

    name = "celery_idempotent"
    verbose_name = "Idempotent email"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what has to be there before the first task or request."""
        from . import checks  # noqa: F401
        from .operations import periodic_tasks  # noqa: F401
        from .outbox import cleanup  # noqa: F401
        from .stores.database.own_connection import add_own_connection
        from .tasks import worker  # noqa: F401

        add_own_connection()
