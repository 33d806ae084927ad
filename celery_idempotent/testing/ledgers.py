"""A ledger for tests: in memory, empty, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

from django.conf import settings
from django.test import override_settings

from ..ledger.ledger import Ledger
from ..stores.factory import forget_ledgers, get_ledger
from ..stores.memory import MemoryStore


class FakeClock:
    """A store's clock that stands still until the test moves it: ``fresh_ledger(clock=FakeClock())``."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time of the store."""
        return self.now

    def forward(self, seconds: float) -> None:
        """Move the clock by ``seconds``."""
        self.now += timedelta(seconds=seconds)


@contextmanager
def fresh_ledger(clock: Callable[[], datetime] | None = None) -> Iterator[Ledger]:
    """Inside the block ``LEDGER`` is ``memory://``, and the ledger begins empty; it is yielded.

    ``clock`` replaces the wall clock of its store. The entries are gone after the block.
    """
    own = {**getattr(settings, "CELERY_IDEMPOTENT", {}), "LEDGER": "memory://"}
    with override_settings(CELERY_IDEMPOTENT=own):
        forget_ledgers()
        try:
            ledger = get_ledger()
            if clock is not None and isinstance(ledger.store, MemoryStore):
                ledger.store.clock = clock
            yield ledger
        finally:
            forget_ledgers()
