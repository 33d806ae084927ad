"""The rows of the outbox: written in the caller's transaction, taken by one relay at a time, removed.

Times are the database's own. A row is looked at when it is due; whoever takes it moves that time on, so that
nobody else has it, and a process that dies with rows in hand gives them back by doing nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, transaction
from django.db.models import Count, F, Min, Q, QuerySet

from ..ledger.entry import After
from ..models import OutboxMessage
from ..models.clock import StoreNow, clock, read, written

GRACE = 30.0
"""Seconds that a row has to be published by the process that wrote it, before a relay looks at it."""
HOLD = 30.0
"""Seconds for which a relay has what it took."""
_LONGEST = 3650 * 86_400.0
"""Seconds from now in which every database has a date: an ETA may be the last day of the year 9999."""
CHUNK = 500
"""Rows in a statement: SQLite limits its variables, MariaDB the size of what it is sent."""
_ANY = Q()
"""The condition of every message."""


def rows_of(alias: str) -> QuerySet[OutboxMessage]:
    """Return the outbox of the database ``alias``."""
    return OutboxMessage._default_manager.using(alias)


def add(alias: str, rows: Sequence[OutboxMessage], own: int | None = None) -> None:
    """Write new rows on the caller's connection, and so in its transaction; all of them, or none.

    The caller has `GRACE` for the first ``own`` (by default all); the others are due at once.
    """
    for number, row in enumerate(rows):
        grace = GRACE if own is None or number < own else 0.0
        row.eta = written(alias, row.eta)
        row.created_at, row.due_at = StoreNow(), written(alias, After(grace))  # type: ignore[assignment]
    rows_of(alias).bulk_create(rows, batch_size=CHUNK)


def due(alias: str, limit: int, which: Q) -> Any:
    """Return the primary keys of what is due and one of ``which``, the oldest first: one probe of an index.

    Nothing is asked for but what that index has; else MariaDB may read the whole table.
    """
    rows = rows_of(alias).filter(which, due_at__lte=StoreNow())
    return rows.order_by("due_at").values_list("pk", flat=True)[:limit]


def of_tasks(tasks: Collection[str]) -> Q:
    """Return the condition of the messages of ``tasks``."""
    return Q(task__in=tasks)


def of_unknown_tasks(alias: str, tasks: Collection[str], seconds: float) -> Q:
    """Return the condition of messages of other tasks that have been due for ``seconds``, and nobody took."""
    return ~of_tasks(tasks) & Q(due_at__lte=written(alias, After(-seconds)))


def faults(alias: str, limit: int) -> list[tuple[str, str, int, str]]:
    """Return task, reason, number and a task id of messages that cannot be published, the most first.

    This reads the whole table.
    """
    groups = rows_of(alias).exclude(error="").values_list("task", "error")
    return list(groups.annotate(number=Count("pk"), one=Min("task_id")).order_by("-number")[:limit])


def overdue(alias: str, seconds: float) -> int:
    """Return how many messages no relay has looked at for ``seconds`` longer than it should.

    Not those with a reason to wait: `faults` tells of them.
    """
    return rows_of(alias).filter(due_at__lte=written(alias, After(-seconds)), error="").count()


def take(alias: str, limit: int, which: Q = _ANY) -> list[OutboxMessage]:
    """Take up to ``limit`` due rows of ``which`` for `HOLD` seconds. Of several relays each gets its own."""
    wanted = due(alias, limit, which)
    if connections[alias].features.has_select_for_update_skip_locked:
        with transaction.atomic(using=alias):
            keys = list(wanted.select_for_update(skip_locked=True))
            _hold(alias, *keys)
    else:
        keys = [key for key in wanted if _hold(alias, key, due_at__lte=StoreNow())]
    found = rows_of(alias).annotate(store_now=StoreNow()).in_bulk(keys)
    return [found[key] for key in keys if key in found]


def _hold(alias: str, *keys: int, **condition: Any) -> int:
    until = written(alias, After(HOLD))
    return rows_of(alias).filter(pk__in=keys, **condition).update(due_at=until) if keys else 0


def published(alias: str, rows: Iterable[OutboxMessage], wait: Callable[[int], float]) -> None:
    """Note that ``rows`` were published; due again ``wait(tries)`` seconds from now, or from their ETA.

    One UPDATE for up to `CHUNK` that have been tried equally often and have no ETA.
    """
    groups = _grouped(rows)
    now = clock(alias) if any(eta for _, eta in groups) else None
    for (tries, eta), keys in groups.items():
        seconds = wait(tries + 1)
        late = max((moment(alias, eta) - now).total_seconds(), 0.0) if eta and now else 0.0
        for some in _in_chunks(alias, keys):
            some.update(
                tries=tries + 1,
                published_at=StoreNow(),
                due_at=written(alias, After(min(late + seconds, _LONGEST))),
                error="",
            )


def age(alias: str, row: OutboxMessage) -> timedelta:
    """Return how long before it was taken ``row`` was written, or its ETA was, if that is later."""
    begun = max(moment(alias, row.created_at), moment(alias, row.eta or row.created_at))
    return moment(alias, row.store_now) - begun  # type: ignore[attr-defined]


def moment(alias: str, value: Any) -> datetime:
    """Return a time of a row in aware UTC, also where Django does without time zones."""
    found = read(alias, value)
    assert found is not None
    return found


def _grouped(rows: Iterable[OutboxMessage]) -> dict[tuple[int, Any], list[str]]:
    groups: dict[tuple[int, Any], list[str]] = defaultdict(list)
    for row in rows:
        groups[row.tries, row.eta].append(row.task_id)
    return groups


def wait(alias: str, rows: Sequence[OutboxMessage], seconds: float, error: str = "") -> None:
    """Leave ``rows`` for ``seconds``, with the reason if there is something wrong with them."""
    for some in _in_chunks(alias, _ids(rows)):
        some.update(due_at=written(alias, After(seconds)), error=error[:200])


def give_back(alias: str, rows: Sequence[OutboxMessage]) -> None:
    """Make ``rows`` due again, in order of their age."""
    for some in _in_chunks(alias, _ids(rows)):
        some.update(due_at=F("created_at"))


def _ids(rows: Sequence[OutboxMessage]) -> list[str]:
    return [row.task_id for row in rows]  # MySQL does not tell the primary keys of a bulk insert


def remove(alias: str, task_ids: Sequence[str]) -> int:
    """Remove the rows of these task ids, their arguments with them; return how many there were."""
    return sum(some.delete()[0] for some in _in_chunks(alias, task_ids))


def _in_chunks(alias: str, task_ids: Sequence[str]) -> Iterator[QuerySet[OutboxMessage]]:
    for start in range(0, len(task_ids), CHUNK):
        yield rows_of(alias).filter(task_id__in=task_ids[start : start + CHUNK])
