"""Merge deliveries: replies of a hand-over with what is known, and with events of the provider."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from .entry import REFUSING, Delivery, Entry
from .status import DeliveryStatus


def merged(entry: Entry, rows: Iterable[Delivery]) -> tuple[Delivery, ...]:
    """Return the deliveries of ``entry`` with ``rows`` in place of those for the same part and recipient.

    What the provider has told about one stays with it, as `events_that_still_count` says.
    """
    known = {d.key: d for d in entry.deliveries}
    for row in rows:
        before = known.get(row.key)
        known[row.key] = row if row.events else replace(row, events=events_that_still_count(before, row))
    return tuple(known.values())


def events_that_still_count(before: Delivery | None, row: Delivery) -> tuple[tuple[str, datetime], ...]:
    """Return the events of ``before`` that count for ``row``, which takes its place.

    That an earlier hand-over failed says nothing about the next one; what was accepted stays so.
    """
    if before is None:
        return ()
    if before.status is DeliveryStatus.DEFERRED and row.status is DeliveryStatus.SENDING:
        return tuple(one for one in before.events if one[0] not in REFUSING)
    return before.events


def without_events(deliveries: Iterable[Delivery]) -> tuple[Delivery, ...]:
    """Return ``deliveries`` without webhook events."""
    return tuple(replace(delivery, events=()) for delivery in deliveries)
