"""The sweep and the purge as Celery tasks, for beat. They exist only where this module is imported.

``app.autodiscover_tasks(["celery_idempotent"], related_name="maintenance")`` imports it.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from celery import shared_task

from .core.errors import LedgerUnavailable
from .retention import BATCH
from .retention import purge as remove
from .sweep import LIMIT, STUCK_AFTER
from .sweep import sweep as go_round


@shared_task(name="celery_idempotent.sweep", bind=True, throws=(LedgerUnavailable,))
def sweep(self: Any, limit: int = LIMIT, stuck_after: float = STUCK_AFTER) -> dict[str, Any]:
    """Make one pass of the sweep, see `celery_idempotent.sweep`. Returns what it did."""
    done = asdict(go_round(limit, stuck_after, self.app))
    return {**done, "stuck": len(done["stuck"])}


@shared_task(name="celery_idempotent.purge", bind=True, throws=(LedgerUnavailable,))
def purge(self: Any, days: float | None = None, batch: int = BATCH) -> int:
    """Remove what is finished and older than ``days``, by default ``RETENTION``. Returns how many went."""
    return remove(None if days is None else timedelta(days=days), batch=batch, app=self.app)
