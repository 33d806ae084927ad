"""Django app of the Anymail integration."""

from __future__ import annotations

from django.apps import AppConfig


class AnymailConfig(AppConfig):
    """Adds the transport for Anymail's backends, the receiver of its tracking events, and checks."""

    name = "celery_idempotent.contrib.anymail"
    label = "celery_idempotent_anymail"
    verbose_name = "Idempotent email: Anymail"

    def ready(self) -> None:
        """Connect transport, receiver and checks."""
        from anymail.signals import tracking

        from ...mail.transport_selection import add_transport
        from . import checks  # noqa: F401
        from .transport import AnymailTransport
        from .webhooks import hear

        add_transport(AnymailTransport.find)
        tracking.connect(hear, dispatch_uid="celery_idempotent.contrib.anymail")
