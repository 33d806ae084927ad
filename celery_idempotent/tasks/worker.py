"""Celery worker signals: check the ledger at start, close SMTP connections at the end."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import worker_process_shutdown, worker_ready, worker_shutdown
from django.core.exceptions import ImproperlyConfigured

from ..exceptions import LedgerUnavailable
from ..stores.factory import get_ledger

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


@worker_process_shutdown.connect(weak=False)
@worker_shutdown.connect(weak=False)
def say_goodbye(**_: Any) -> None:
    """Close the SMTP connections that this process keeps open."""
    from ..mail.smtp.connections import pool

    pool.close()
