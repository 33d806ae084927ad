"""Keeps the ledger's tables in the ledger's database, and nothing else there."""

from typing import Any

APP = "celery_idempotent"
ALIAS = "ledger"


class LedgerRouter:
    """Sends the models of celery_idempotent to the database ``ledger``."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return where to read ``model``."""
        return ALIAS if model._meta.app_label == APP else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Tell whether the tables of ``app_label`` belong into ``db``."""
        return (db == ALIAS) == (app_label == APP)
