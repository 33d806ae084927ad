"""Tasks for Celery's beat."""

from __future__ import annotations

import logging
from typing import Any

from celery import shared_task
from django.db import Error as DatabaseError

from .dispatch import BrokerDown
from .relay import Relay

logger = logging.getLogger("celery_idempotent")


@shared_task(bind=True, name="celery_idempotent.relay", ignore_result=True)
def relay(self: Any, limit: int = 1000) -> None:
    """Make one pass over the outbox, of at most ``limit`` messages for each database."""
    try:
        logger.info("relay: %s", Relay(self.app).once(limit))
    except (BrokerDown, DatabaseError) as error:
        logger.warning("relay: the next pass goes on: %s", error)
