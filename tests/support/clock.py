"""A clock that a test moves, in place of the store's own."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone


class Clock:
    """The store's clock."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
