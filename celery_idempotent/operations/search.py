"""Search entries in the tables: the ledger's own, or its mirror.

Each entry is then read from the ledger itself, so that a mirror that is behind decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from django.db.models import Max, Min, Q

from ..ledger.entry import Attempt
from ..ledger.status import DeliveryStatus
from ..models import LogicalEmail, SendAttempt
from ..models.clock import read
from ..models.queries import LogicalEmailQuerySet
from ..stores.database.connection import translated
from ..stores.database.own_connection import ledger_alias
from ..stores.factory import is_redis, ledger_name


def has_tables() -> bool:
    """Tell whether the ledger can be looked through: it is in a database, or has a mirror there."""
    name = ledger_name()
    return name == "database" or is_redis(name)


@contextmanager
def rows() -> Iterator[LogicalEmailQuerySet[LogicalEmail]]:
    """Yield all rows. Errors of the database become `LedgerUnavailable`."""
    alias = ledger_alias()
    with translated(alias):
        yield LogicalEmail.objects.using(alias)


def keys_in_doubt(limit: int) -> list[str]:
    """Return up to ``limit`` keys in doubt, from a random place on, so that none is always left out."""
    if not has_tables():
        return []
    with rows() as found:
        doubtful = found.in_doubt()
        ends = doubtful.aggregate(first=Min("pk"), last=Max("pk"))
        if ends["first"] is None:
            return []
        start = random.randint(ends["first"], ends["last"])
        keys = doubtful.order_by("pk").values_list("key", flat=True)
        after = list(keys.filter(pk__gte=start)[:limit])
        return after + list(keys.filter(pk__lt=start)[: limit - len(after)])


def matching(text: str, limit: int) -> list[str]:
    """Return up to ``limit`` keys, the newest first, of what ``text`` names.

    A task id, a Message-ID, or at least four characters of how a key begins; one index probe each.
    """
    if not has_tables() or not text:
        return []
    prefix = text if text.startswith("1:") else f"1:{text}"
    ways = [Q(owner=text), Q(send_attempts__task_id=text), Q(send_attempts__message_id=text)]
    if len(prefix) >= 6:
        # A key ends in hexadecimal digits, all of which sort before "g": a range has an index everywhere.
        ways.append(Q(key__gte=prefix, key__lt=f"{prefix}g", key__startswith=prefix))
    with rows() as found:
        for way in ways:
            keys = found.filter(way).order_by("-created_at").values_list("key", flat=True)
            if matched := list(dict.fromkeys(keys[:limit])):
                return matched
    return []


def attempts_of(key: str) -> list[Attempt]:
    """Return every hand-over of ``key`` that the tables have, of all generations."""
    if not has_tables():
        return []
    with rows() as found:
        told = SendAttempt.objects.using(found.db).filter(email__key=key).order_by("generation", "number")
        return [_attempt(row, found.db) for row in told]


def _attempt(row: SendAttempt, alias: str) -> Attempt:
    started = read(alias, row.started_at)
    assert started is not None
    return Attempt(
        number=row.number,
        generation=row.generation,
        part=row.part,
        task_id=row.task_id,
        worker=row.worker,
        message_id=row.message_id,
        recipients=row.recipients,
        started_at=started,
        ended_at=read(alias, row.ended_at),
        outcome=DeliveryStatus(row.outcome),
        code=row.code,
        detail=row.detail,
    )
