"""A task's result as the ledger keeps it: JSON, by the same encoder that Celery's results use."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from kombu.utils import json as kombu_json

logger = logging.getLogger("celery_idempotent")

_ENCODE: Callable[[Any], str] = kombu_json.dumps
_DECODE: Callable[[str], Any] = kombu_json.loads


def dump(result: Any, email_type: str) -> Any:
    """Return ``result`` as plain JSON, or None, with a warning, where it cannot be that."""
    try:
        return json.loads(_ENCODE(result))
    except (TypeError, ValueError) as error:
        logger.warning(
            "%s: the result is not JSON (%s), so duplicates get None; the send stands", email_type, error
        )
        return None


def load(stored: Any) -> Any:
    """Return the result that `dump` was given, as ``AsyncResult.get()`` would return it."""
    return _DECODE(json.dumps(stored))
