"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class AnymailConfig(AppConfig):
    """Adds the transport for Anymail's backends, the receiver of its tracking events, and a check."""

    name = "celery_idempotent.contrib.anymail"
    label = "celery_idempotent_anymail"
    verbose_name = "Idempotent email: Anymail"

    def ready(self) -> None:
        """Connect the three."""
        from anymail.signals import tracking

        from ...mail.registry import add_transport
        from . import checks  # noqa: F401
        from .tracking import hear
        from .transport import transport_for

        add_transport(transport_for)
        tracking.connect(hear, dispatch_uid="celery_idempotent.contrib.anymail")
