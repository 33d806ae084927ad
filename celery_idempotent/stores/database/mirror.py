"""The Django tables as a mirror of a ledger in Redis: for admin and reports, never asked for a decision."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from ...exceptions import EntryUnreadable, LedgerUnavailable
from ...ledger.entry import Entry
from ...models import LogicalEmail
from ...models.clock import written
from ..redis.store import RedisStore
from .connection import translated
from .orm import write_attempts, write_deliveries
from .rows import columns

logger = logging.getLogger("celery_idempotent")
PAUSE = 30.0
"""Seconds without further tries after the database did not answer: nobody waits for it with every email."""


class DatabaseMirror:
    """Copies entries of ``store`` into the tables on the database that ``alias`` returns."""

    def __init__(self, store: RedisStore, alias: Callable[[], str]) -> None:
        self.store = store
        self._alias = alias
        self._not_before = 0.0
        self._behind = True  # another process may have noted something

    def show(self, entry: Entry) -> bool:
        """Bring the rows of ``entry`` up to date, or note that they are stale. Never raises."""
        if not self._try(entry.key, lambda: self._write(entry)):
            self._behind = True
            self._mark_stale(entry.key)
            return False
        if self._behind:
            self._behind = self._is_behind(entry.key)
        return True

    def _is_behind(self, key: str) -> bool:
        """Write some of the stale copies, and tell whether there may be more."""
        done = 0

        def write() -> None:
            nonlocal done
            done = self.catch_up()

        return not self._try(key, write) or done > 0

    def count(self, entry: Entry) -> None:
        """Bring the number of arrivals up to date. Never raises."""

        def write() -> None:
            alias = self._alias()
            with translated(alias):
                rows = LogicalEmail.objects.using(alias).filter(key=entry.key, arrivals__lt=entry.arrivals)
                rows.update(arrivals=entry.arrivals)

        self._try(entry.key, write)

    def catch_up(self, limit: int = 20) -> int:
        """Write up to ``limit`` stale copies; return how many were. Raises `LedgerUnavailable`."""
        done = 0
        for key in self.store.stale_keys(limit):
            try:
                self._refresh(key)
                done += 1
            except EntryUnreadable as error:
                logger.error("not in the mirror: %s", error)
                self.store.clear_stale(key)
            except LedgerUnavailable:
                self._mark_stale(key)
                raise
            except Exception:
                logger.exception("%s: not in the mirror, and left out", key)
                self.store.clear_stale(key)
        self._not_before = 0.0
        return done

    def _refresh(self, key: str) -> None:
        """Write the copy of ``key``, and then forget the note: whoever is killed before that leaves it.

        A change meanwhile had the same note, so it is noted anew.
        """
        stored = self.store.get(key)
        if stored is not None:
            self._write(stored.entry)
        self.store.clear_stale(key)
        again = self.store.get(key)
        if again is not None and (stored is None or _identity(again.entry) != _identity(stored.entry)):
            self.store.mark_stale(key)

    def _try(self, key: str, write: Callable[[], object]) -> bool:
        """Call ``write`` unless the database did not answer a moment ago, and tell whether it went well."""
        if time.monotonic() < self._not_before:
            return False
        try:
            write()
        except LedgerUnavailable as error:
            self._not_before = time.monotonic() + PAUSE
            logger.warning("%s: the mirror is behind: %s", key, error)
        except Exception:
            logger.exception("%s: the mirror could not be written", key)
        else:
            return True
        return False

    def _mark_stale(self, key: str) -> None:
        try:
            self.store.mark_stale(key)
        except LedgerUnavailable as error:
            logger.error("%s: not in the mirror, and that could not be noted: %s", key, error)

    def _write(self, entry: Entry) -> None:
        """Write the rows in one transaction, unless they are newer already."""
        alias = self._alias()
        with translated(alias), transaction.atomic(using=alias):
            created = written(alias, entry.created_at)
            assert isinstance(created, datetime)  # the ledger has stored it
            values = {
                **columns(alias, replace(entry, sealed="")),  # what is encrypted stays in one place
                "arrivals": entry.arrivals,
                "created_at": created,
                "version": entry.version,
            }
            rows = LogicalEmail.objects.using(alias)
            row, is_new = rows.get_or_create(key=entry.key, defaults=values)
            if not is_new:
                # An entry that expired in Redis and began anew counts its versions from the start.
                again = row.created_at < created and rows.filter(pk=row.pk, created_at__lt=created).update(
                    **values
                )
                newer = Q(created_at=created, version__lt=entry.version)
                if not again and not rows.filter(newer, pk=row.pk).update(**values):
                    return
                if again:
                    row.deliveries.using(alias).all().delete()  # type: ignore[attr-defined]
                    row.send_attempts.using(alias).all().delete()  # type: ignore[attr-defined]
            row.generation = entry.generation
            write_attempts(alias, row, entry.history)
            write_deliveries(alias, row, entry.deliveries)


def _identity(entry: Entry) -> tuple[object, int]:
    """Return what identifies one state of a key, also after the key expired and was created again."""
    return entry.created_at, entry.version
