"""Keep a task's result as JSON, by the encoder of Celery's results."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any

from kombu.utils import json as kombu_json

logger = logging.getLogger("celery_idempotent")

_ENCODE: Callable[[Any], str] = kombu_json.dumps
_DECODE: Callable[[str], Any] = kombu_json.loads


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL character as JSON writes it: PostgreSQL cannot keep one."""


def _refuse(what: str) -> None:
    raise ValueError(f"{what} cannot be kept by every store")


def dump(result: object, email_type: str) -> Any:
    """Return ``result`` as plain JSON, or None, with a warning, where it cannot be that."""
    try:
        plain = json.loads(_ENCODE(result), parse_constant=_refuse)
        text = json.dumps(plain, ensure_ascii=False)
        text.encode()  # lone surrogates have no UTF-8
        if _NUL.search(text):
            _refuse("NUL")
        return plain
    except (TypeError, ValueError) as error:
        logger.warning(
            "%s: the result is not JSON (%s), so duplicates get None; the send stands", email_type, error
        )
        return None


def load(stored: object) -> Any:
    """Return the result that `dump` was given, as ``AsyncResult.get()`` would return it."""
    return _DECODE(json.dumps(stored))
