"""What a run ended with that cannot tell whether its mail went out."""

from __future__ import annotations

from typing import Any

from celery_idempotent import DeliveryInDoubt
from celery_idempotent.core.errors import DeliveryUnconfirmed


def is_held(result: Any) -> bool:
    """Tell whether ``result`` is a doubt that does not settle itself."""
    return isinstance(result, DeliveryInDoubt) and not isinstance(result, DeliveryUnconfirmed)
