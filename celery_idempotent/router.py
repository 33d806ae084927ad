"""For a ledger in a database of its own: sends its models, their migrations and their admin pages there.

The outbox stays with the project's data, whose transactions it is part of.
"""

from __future__ import annotations

from typing import Any

from .conf import conf

__all__ = ["LedgerRouter"]

APP = "celery_idempotent"
OUTBOX = "outboxmessage"


class LedgerRouter:
    """Put ``"celery_idempotent.router.LedgerRouter"`` into ``DATABASE_ROUTERS``."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return the ledger's database for the ledger's models, and the outbox's for the outbox."""
        if model._meta.app_label != APP:
            return None
        return conf.outbox_databases[0] if model._meta.model_name == OUTBOX else conf.database

    db_for_write = db_for_read

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool | None:
        """Keep the tables in their databases, and let other routers decide on the rest."""
        if app_label != APP:
            return None
        return db in conf.outbox_databases if model_name == OUTBOX else db == conf.database
