"""Retry a write while the ledger does not answer, with growing pauses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ..exceptions import LedgerUnavailable

logger = logging.getLogger("celery_idempotent")
T = TypeVar("T")

_OUTCOME_PATIENCE = 300.0
"""Seconds for which an outcome that has happened is offered to a ledger that does not answer."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0


def retry_while_unavailable(write: Callable[[], T], patience: float | None = None) -> T:
    """Call ``write`` until the ledger answers, with growing pauses, for ``patience`` seconds at most.

    By default for `_OUTCOME_PATIENCE`. Raises `LedgerUnavailable` after that, and any other error at once.
    """
    end = time.monotonic() + (_OUTCOME_PATIENCE if patience is None else patience)
    pause = _FIRST_PAUSE
    while True:
        try:
            return write()
        except LedgerUnavailable as error:
            if time.monotonic() + pause > end:
                raise
            logger.warning("the ledger does not answer, trying again in %.2f s: %s", pause, error)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
