"""For a ledger in a database of its own: sends its models, their migrations and their admin pages there."""

from __future__ import annotations

from typing import Any

from .conf import conf

APP = "celery_idempotent"


class LedgerRouter:
    """Put ``"celery_idempotent.router.LedgerRouter"`` into ``DATABASE_ROUTERS``."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return the ledger's database for the ledger's models."""
        return conf.database if model._meta.app_label == APP else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Keep the ledger's tables in the ledger's database, and let other routers decide on the rest."""
        return db == conf.database if app_label == APP else None
