"""Tables for a terminal: values as cells, and rows in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return ``rows`` below ``headings``, in columns."""
    lines = [list(headings), *([text(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    drawn = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in drawn)


def text(value: object) -> str:
    """Return ``value`` as a cell of a table: times to the second, in UTC with a Z; nothing as ``-``."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        aware = value.tzinfo is not None
        return f"{(value.astimezone(timezone.utc) if aware else value):%Y-%m-%d %H:%M:%S}{'Z' if aware else ''}"
    return str(getattr(value, "value", value)).replace("in_doubt", "in doubt")


def moment(value: object) -> str | None:
    """Return a time as ISO 8601."""
    return value.isoformat() if isinstance(value, datetime) else None
