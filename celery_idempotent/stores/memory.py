"""A store in the memory of this process, for tests and trials.

Other processes do not see it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from ..ledger.entry import Attempt, Delivery, Entry
from ..ledger.status import FINISHED, IN_FLIGHT
from ..ledger.store import Store, Stored


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class MemoryStore(Store):
    """Entries in a dict under one lock. ``clock`` replaces the wall clock in tests."""

    def __init__(self, clock: Callable[[], datetime] = _utc_now) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._changed: dict[str, datetime] = {}

    def clear(self) -> None:
        """Forget every entry, as a store does that was set back."""
        with self._lock:
            self._entries.clear()
            self._changed.clear()

    def keys(self) -> Sequence[str]:
        """Return the keys of all entries, the oldest first."""
        with self._lock:
            return list(self._entries)

    def insert(self, entry: Entry, attempt: Attempt | None = None) -> Stored:
        """Write ``entry`` if its key is absent, else count the arrival. Atomic under the store's lock."""
        with self._lock:
            now = self.clock()
            known = self._entries.get(entry.key)
            if known is None:
                return Stored(self._write(entry, now), now, inserted=True)
            counted = replace(known, arrivals=known.arrivals + 1)
            self._entries[entry.key] = counted
            return Stored(counted, now)

    def swap(
        self,
        entry: Entry,
        version: int,
        attempt: Attempt | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> Stored | None:
        """Replace the entry if its version is still ``version``. Atomic under the store's lock."""
        with self._lock:
            now = self.clock()
            known = self._entries.get(entry.key)
            if known is None or known.version != version:
                return None
            kept = replace(entry, version=version + 1, arrivals=known.arrivals, created_at=known.created_at)
            return Stored(self._write(kept, now), now)

    def _write(self, entry: Entry, now: datetime) -> Entry:
        entry = entry.with_times(now)
        self._entries[entry.key] = entry
        self._changed[entry.key] = now
        return entry

    def get(self, key: str) -> Stored | None:
        """Return the entry of ``key``, or None."""
        with self._lock:
            entry = self._entries.get(key)
            return Stored(entry, self.clock()) if entry else None

    def due(self, limit: int = 100) -> Sequence[Entry]:
        """Return entries in flight whose deadline has passed, oldest first."""
        with self._lock:
            now = self.clock()
            late = [
                (entry.deadline, entry)
                for entry in self._entries.values()
                if entry.status in IN_FLIGHT and isinstance(entry.deadline, datetime) and entry.deadline <= now
            ]
            return [entry for _, entry in sorted(late, key=lambda pair: pair[0])[:limit]]

    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        """Remove finished entries unchanged for ``older_than`` seconds."""
        with self._lock:
            before = self.clock() - timedelta(seconds=older_than)
            keys = [
                key
                for key, entry in self._entries.items()
                if entry.status in FINISHED and self._changed[key] <= before
            ][:limit]
            for key in keys if not dry_run else ():
                del self._entries[key], self._changed[key]
            return len(keys)

    def naming(self, digest: str) -> Sequence[str]:
        """Look at every entry."""
        with self._lock:
            return [
                key
                for key, entry in self._entries.items()
                if any(delivery.recipient.digest == digest for delivery in entry.deliveries)
            ]

    def problems(self) -> Sequence[str]:
        """Say what everybody has to know who runs workers with it."""
        return [
            "LEDGER is memory://, which each process has to itself: duplicates in another process are sent. "
            "It is for tests"
        ]

    def now(self) -> datetime:
        """Return the clock."""
        return self.clock()
