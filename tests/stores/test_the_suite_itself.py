"""The conformance suite can fail: a store with one primitive broken on purpose does not pass it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.store import Stored
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import StoreConformance


class InsertOverwrites(MemoryStore):
    def insert(self, entry: Entry, attempt: Any = None) -> Stored:
        self._entries.pop(entry.key, None)
        return super().insert(entry, attempt)


class InsertCountsNothing(MemoryStore):
    def insert(self, entry: Entry, attempt: Any = None) -> Stored:
        stored = super().insert(entry, attempt)
        self._entries[entry.key] = replace(stored.entry, arrivals=1)
        return Stored(self._entries[entry.key], stored.now, stored.inserted)


class InsertLooksAndThenWrites(MemoryStore):
    def insert(self, entry: Entry, attempt: Any = None) -> Stored:
        if self.get(entry.key) is None:
            time.sleep(0.01)
            self._entries.pop(entry.key, None)
        return super().insert(entry, attempt)


class SwapIgnoresTheVersion(MemoryStore):
    def swap(self, entry: Entry, version: int, *more: Any) -> Stored | None:
        known = self.get(entry.key)
        return super().swap(entry, known.entry.version if known else version, *more)


class SwapKeepsTheVersion(MemoryStore):
    def swap(self, entry: Entry, version: int, *more: Any) -> Stored | None:
        stored = super().swap(entry, version, *more)
        if stored is not None:
            self._entries[entry.key] = replace(stored.entry, version=version)
        return stored


class SwapResurrects(MemoryStore):
    def swap(self, entry: Entry, version: int, *more: Any) -> Stored | None:
        return super().swap(entry, version, *more) or (None if self.get(entry.key) else self.insert(entry))


class GetForgetsDeliveries(MemoryStore):
    def get(self, key: str) -> Stored | None:
        stored = super().get(key)
        return stored and replace(stored, entry=replace(stored.entry, deliveries=()))


class GetAddsToDeliveries(MemoryStore):
    def swap(self, entry: Entry, version: int, *more: Any) -> Stored | None:
        known = self.get(entry.key)
        old = known.entry.deliveries if known else ()
        return super().swap(replace(entry, deliveries=old + entry.deliveries), version, *more)


class TimesOfTheCaller(MemoryStore):
    def insert(self, entry: Entry, attempt: Any = None) -> Stored:
        stored = super().insert(entry, attempt)
        return replace(stored, entry=replace(stored.entry, deadline=entry.deadline))


class DueIsEverything(MemoryStore):
    def due(self, limit: int = 100) -> Sequence[Entry]:
        return list(self._entries.values())[:limit]


class PurgeTakesAll(MemoryStore):
    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        taken = list(self._entries)[:limit] if older_than < 0 else []
        for key in taken if not dry_run else ():
            del self._entries[key]
        return len(taken)


class DryRunRemoves(MemoryStore):
    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        return super().purge(older_than, limit)


class NamesNobody(MemoryStore):
    def naming(self, digest: str) -> Sequence[str]:
        return []


class ForgetsWhatIsUnfinished(MemoryStore):
    def get(self, key: str) -> Stored | None:
        stored = super().get(key)
        return stored and replace(stored, entry=replace(stored.entry, unfinished=False))


class ForgetsTheAudit(MemoryStore):
    def get(self, key: str) -> Stored | None:
        stored = super().get(key)
        return stored and replace(stored, entry=replace(stored.entry, audit=()))


BROKEN = [each for each in list(globals().values()) if inspect.isclass(each) and each.__module__ == __name__]


def conform(make: Callable[[], MemoryStore]) -> list[str]:
    """Run every test of the suite on a store of its own, and return the names of those that failed."""
    failed = []
    for name in dir(StoreConformance):
        if name.startswith("test_"):
            try:
                getattr(StoreConformance(), name)(make())
            except (AssertionError, KeyError):
                failed.append(name)
    return failed


def test_a_store_in_order_passes() -> None:
    """The harness below finds nothing in it."""
    assert conform(MemoryStore) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_store_fails(broken: type[MemoryStore]) -> None:
    """At least one test notices."""
    assert conform(broken) != []
