"""``manage.py idempotency stats``: how many emails there are in which state, or those that wait."""

from __future__ import annotations

from typing import Any

from ..ledger.status import Status
from ..models import LogicalEmail
from ..models.queries import LogicalEmailQuerySet
from ..operations import search
from ..operations.tables import moment, table

SHOWN = 50
"""Emails that a list shows."""
HELP = {
    "in_doubt": "list those in doubt",
    "stuck": "list those that wait for somebody",
    "unfinished": "list those sent whose body was cut off before its end",
}


def summary(seconds: float, wanted: str | None) -> tuple[Any, str]:
    """Return counts, or the list ``wanted`` of `HELP`, as data and as text. Raises `LedgerUnavailable`.

    What waits counts after ``seconds`` without a change.
    """
    with search.rows() as rows:
        waiting = {
            "in_doubt": rows.in_doubt().order_by("updated_at"),
            "stuck": rows.stuck(seconds),
            "unfinished": rows.unfinished(seconds),
        }
        if wanted is not None:
            return _listed(waiting[wanted])
        counts = rows.counts()
        stuck, unfinished = waiting["stuck"].count(), waiting["unfinished"].count()
    types = sorted({kind for kind, _ in counts})
    numbers = {kind: {s.value: counts.get((kind, s.value), 0) for s in Status} for kind in types}
    text = (
        _counted(numbers)
        + f"\n\n{stuck} stuck: not at their end, and unchanged for {seconds:.0f} s"
        + f"\n{unfinished} unfinished: sent, but their bodies cut off, for {seconds:.0f} s"
    )
    return {"types": numbers, "stuck": stuck, "unfinished": unfinished}, text


def _counted(numbers: dict[str, dict[str, int]]) -> str:
    lines = [[kind, *row.values()] for kind, row in numbers.items()]
    if lines:
        lines.append(["all", *(sum(row[s.value] for row in numbers.values()) for s in Status)])
    return table(("email type", *(status.value.replace("_", " ") for status in Status)), lines)


def _listed(rows: LogicalEmailQuerySet[LogicalEmail]) -> tuple[Any, str]:
    names = ("key", "email_type", "label", "status", "updated_at")
    found = list(rows.values_list(*names)[: SHOWN + 1])
    more = f"\n\nand more; these are the oldest {SHOWN}" if len(found) > SHOWN else ""
    data = [dict(zip(names, (*values[:4], moment(values[4])), strict=True)) for values in found[:SHOWN]]
    text = table(("key", "email type", "label", "status", "since"), found[:SHOWN]) if found else "none"
    return data, text + more
