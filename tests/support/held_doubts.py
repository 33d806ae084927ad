"""Doubts: what a run ends with that cannot tell whether its mail went out, and the time in which it may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_idempotent import DeliveryInDoubt
from celery_idempotent.exceptions import DeliveryUnconfirmed
from celery_idempotent.ledger.entry import After, Entry


def is_held(result: Any) -> bool:
    """Tell whether ``result`` is a doubt that does not settle itself."""
    return isinstance(result, DeliveryInDoubt) and not isinstance(result, DeliveryUnconfirmed)


def past_deadline(store: Any, entry: Entry) -> Entry:
    """Have the send deadline of ``entry`` pass: what is not there by now was not sent."""
    late = store.swap(replace(entry, deadline=After(-1.0)), entry.version)
    assert late is not None
    return late.entry
