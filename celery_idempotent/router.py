"""Database router for a ledger in a database of its own: routes its models, migrations and admin pages.

The outbox stays with the project's data, in whose transactions it takes part.
"""

from __future__ import annotations

from django.db.models import Model

from .conf import conf

__all__ = ["LedgerRouter"]

_APP = "celery_idempotent"
_OUTBOX = "outboxmessage"


class LedgerRouter:
    """Put ``"celery_idempotent.router.LedgerRouter"`` into ``DATABASE_ROUTERS``."""

    def db_for_read(self, model: type[Model], **hints: object) -> str | None:
        """Return the ledger's database for the ledger's models, and the outbox's for the outbox."""
        if model._meta.app_label != _APP:
            return None
        return conf.outbox_databases[0] if model._meta.model_name == _OUTBOX else conf.database

    db_for_write = db_for_read

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: object
    ) -> bool | None:
        """Keep the tables in their databases, and leave all other tables to other routers."""
        if app_label != _APP:
            return None
        return db in conf.outbox_databases if model_name == _OUTBOX else db == conf.database
