"""Celery's worker signals: what a worker should know about its ledger before the first task."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import worker_ready
from django.core.exceptions import ImproperlyConfigured

from .core.errors import LedgerUnavailable
from .wiring import get_ledger

logger = logging.getLogger("celery_idempotent")


@worker_ready.connect(weak=False)
def examine_ledger(sender: Any, **_: Any) -> None:
    """Log what makes the ledger unfit, and go on: it may be mended while tasks wait."""
    try:
        problems = get_ledger(sender.app).store.problems()
    except LedgerUnavailable as error:
        problems = [f"{error}. Tasks wait until it answers"]
    except ImproperlyConfigured as error:
        problems = [f"{error}. Tasks fail until it is mended"]
    for problem in problems:
        logger.error("the ledger: %s", problem)
