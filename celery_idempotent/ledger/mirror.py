"""The protocol of a mirror: a copy of entries that people look at and no decision reads."""

from __future__ import annotations

from typing import Protocol

from .entry import Entry


class Mirror(Protocol):
    """Copies entries to where the admin and reports read them."""

    def show(self, entry: Entry) -> bool:
        """Bring the copy of ``entry`` up to date, or note that it is stale; tell whether it is up to date."""

    def count(self, entry: Entry) -> None:
        """Bring the copy's number of arrivals up to date."""

    def catch_up(self, limit: int = 20) -> int:
        """Write up to ``limit`` stale copies; return how many were. Raises `LedgerUnavailable`."""
