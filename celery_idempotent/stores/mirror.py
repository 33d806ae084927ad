"""The Django tables as a mirror of a ledger in Redis: for admin and reports, never asked for a decision."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from django.db import transaction

from ..core.entry import Attempt, Entry
from ..core.errors import LedgerUnavailable
from ..models import LogicalEmail
from .database import translated, write_attempt, write_deliveries
from .redis import RedisStore
from .rows import columns, written

logger = logging.getLogger("celery_idempotent")
PAUSE = 30.0
"""Seconds without further tries after the database did not answer: nobody waits for it with every email."""


class Mirror:
    """Copies entries of ``store`` into the tables on the database that ``alias`` returns."""

    def __init__(self, store: RedisStore, alias: Callable[[], str]) -> None:
        self.store = store
        self._alias = alias
        self._not_before = 0.0

    def keep(self, entry: Entry) -> bool:
        """Bring the rows of ``entry`` up to date, or note that they are owed. Never raises."""
        try:
            if time.monotonic() < self._not_before:
                raise LedgerUnavailable("the mirror's database did not answer a moment ago")
            self._write(entry)
        except Exception as error:
            if not isinstance(error, LedgerUnavailable):
                logger.exception("%s: the mirror could not be written", entry.key)
            elif time.monotonic() >= self._not_before:
                logger.warning("%s: the mirror is behind: %s", entry.key, error)
                self._not_before = time.monotonic() + PAUSE
            self._owe(entry)
            return False
        return True

    def catch_up(self, limit: int = 100) -> int:
        """Write up to ``limit`` entries that are owed; return how many were. Raises `LedgerUnavailable`."""
        done = 0
        for key in self.store.owed_mirrors(limit):
            stored = self.store.get(key)
            if stored is not None:
                self._write(stored.entry)
            self.store.mirrored(key)
            done += 1
        self._not_before = 0.0
        return done

    def _owe(self, entry: Entry) -> None:
        try:
            self.store.owe_mirror(entry.key)
        except LedgerUnavailable as error:
            logger.error("%s: not in the mirror, and that could not be noted: %s", entry.key, error)

    def _write(self, entry: Entry) -> None:
        """Write the rows in one transaction, unless they are newer already."""
        alias = self._alias()
        with translated(alias), transaction.atomic(using=alias):
            values = {
                **columns(alias, entry),
                "arrivals": entry.arrivals,
                "created_at": written(alias, entry.created_at),
                "version": entry.version,
            }
            rows = LogicalEmail.objects.using(alias)
            row, created = rows.get_or_create(key=entry.key, defaults=values)
            if not created and not rows.filter(pk=row.pk, version__lt=entry.version).update(**values):
                return
            row.generation = entry.generation
            for attempt in entry.history:
                self._write_attempt(alias, row, attempt)
            write_deliveries(alias, row, entry.deliveries)

    def _write_attempt(self, alias: str, row: LogicalEmail, attempt: Attempt) -> None:
        known = row.send_attempts.using(alias).filter(  # type: ignore[attr-defined]
            generation=attempt.generation, number=attempt.number
        )
        if attempt.ended_at is not None or not known.exists():
            write_attempt(alias, row, attempt)
