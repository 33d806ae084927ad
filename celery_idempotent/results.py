"""A task's result as the ledger keeps it: JSON, by the same encoder that Celery's results use."""

from __future__ import annotations

import json
import logging
from typing import Any

from kombu.utils.json import dumps, loads

logger = logging.getLogger("celery_idempotent")


def dump(result: Any, email_type: str) -> Any:
    """Return ``result`` as plain JSON, or None, with a warning, where it cannot be that."""
    try:
        return json.loads(dumps(result))
    except (TypeError, ValueError) as error:
        logger.warning(
            "%s: the result is not JSON (%s), so duplicates get None; the send stands", email_type, error
        )
        return None


def load(stored: Any) -> Any:
    """Return the result that `dump` was given, as ``AsyncResult.get()`` would return it."""
    return loads(json.dumps(stored))
