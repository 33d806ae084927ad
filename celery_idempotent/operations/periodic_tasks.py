"""The sweep, the purge and the relay as Celery tasks, for beat."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from celery import shared_task
from django.db import Error as DatabaseError

from ..exceptions import LedgerUnavailable
from ..outbox.publish import BrokerDown
from .purge import BATCH
from .purge import purge as remove
from .relay import Relay
from .sweep import LIMIT, STUCK_AFTER
from .sweep import sweep as go_round

logger = logging.getLogger("celery_idempotent")


@shared_task(name="celery_idempotent.sweep", bind=True, throws=(LedgerUnavailable,))
def sweep(self: Any, limit: int = LIMIT, stuck_after: float = STUCK_AFTER) -> dict[str, Any]:
    """Make one pass of the sweep, see `celery_idempotent.operations.sweep`. Returns what it did."""
    done = asdict(go_round(limit, stuck_after, self.app))
    return {**done, "stuck": len(done["stuck"])}


@shared_task(name="celery_idempotent.purge", bind=True, throws=(LedgerUnavailable,))
def purge(self: Any, days: float | None = None, batch: int = BATCH) -> int:
    """Remove what is finished and older than ``days``, by default ``RETENTION``. Returns how many went."""
    return remove(None if days is None else timedelta(days=days), batch=batch, app=self.app)


@shared_task(bind=True, name="celery_idempotent.relay", ignore_result=True)
def relay(self: Any, limit: int = 1000) -> None:
    """Make one pass over the outbox, of at most ``limit`` messages for each database."""
    try:
        logger.info("relay: %s", Relay(self.app).once(limit))
    except (BrokerDown, DatabaseError) as error:
        logger.warning("relay: the next pass goes on: %s", error)
