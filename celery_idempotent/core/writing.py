"""The one way in which an entry is changed: a compare-and-swap along an allowed transition."""

from __future__ import annotations

from dataclasses import replace

from . import attempts, offers
from .entry import Attempt, Entry
from .status import TRANSITIONS
from .store import Store

MAX_ROUNDS = 16
"""How often who may decide anew looks again when others change the entry under it."""


def swap(store: Store, changed: Entry, entry: Entry, attempt: Attempt | None = None) -> Entry | None:
    """Write ``changed`` in place of ``entry``, with the rows that differ; None if it is no longer there.

    Raises `AssertionError` for a change of status that `TRANSITIONS` does not have, `LedgerUnavailable`.
    """
    assert changed.status in TRANSITIONS[entry.status], f"{entry.status} -> {changed.status}"
    changed = offers.kept(changed)
    before = frozenset(entry.deliveries)
    rows = [delivery for delivery in changed.deliveries if delivery not in before]
    changed = replace(changed, history=attempts.with_attempt(changed, attempt))
    stored = store.swap(changed, entry.version, attempt, rows)
    return stored.entry if stored else None
