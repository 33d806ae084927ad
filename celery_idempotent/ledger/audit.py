"""Decisions about an entry, kept with it: who, why, and when by the store's clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .status import Status


@dataclass(frozen=True, slots=True)
class Intervention:
    """One decision about an entry: by a person, by the sweep, by a webhook, or by a task's rules."""

    action: str
    """What was done, such as ``"resolved as sent"``."""
    actor: str
    reason: str
    at: datetime
    """By the store's clock."""
    generation: int
    """The generation that it was about."""
    found: Status
    """The status before it."""


MAX_AUDIT = 100
"""How many decisions an entry keeps; the newest count."""


def with_decision(audit: tuple[Intervention, ...], one: Intervention) -> tuple[Intervention, ...]:
    """Return ``audit`` with ``one``, and without what is too much then."""
    return (*audit, one)[-MAX_AUDIT:]


def as_rows(audit: Iterable[Intervention]) -> list[dict[str, Any]]:
    """Return ``audit`` as plain JSON."""
    return [
        {
            "action": one.action,
            "actor": one.actor,
            "reason": one.reason,
            "at": one.at.isoformat(),
            "generation": one.generation,
            "found": one.found.value,
        }
        for one in audit
    ]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[Intervention, ...]:
    """Return what `as_rows` was given."""
    return tuple(
        Intervention(
            row["action"],
            row["actor"],
            row["reason"],
            datetime.fromisoformat(row["at"]),
            row["generation"],
            Status(row["found"]),
        )
        for row in rows
    )
