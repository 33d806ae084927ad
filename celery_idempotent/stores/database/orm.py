"""The primitives by Django's ORM: reading on every database, writing on those that are not PostgreSQL.

That one has its own in `postgresql`; the mirror writes here on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import IntegrityError, connections, transaction
from django.db.models import F, Model

from ...ledger.entry import Attempt, Delivery, Entry
from ...ledger.store import Stored
from ...models import Delivery as DeliveryRow
from ...models import LogicalEmail, SendAttempt
from ...models.clock import StoreNow, read, written
from .connection import cannot_insert
from .rows import columns, delivery_columns, delivery_of, entry_of

_BATCH = 500
_ROUNDS = 5


def insert(alias: str, entry: Entry, attempt: Attempt | None) -> Stored:
    """`Store.insert` by an INSERT, or an UPDATE that counts the arrival. The caller has a transaction open."""
    for _ in range(_ROUNDS):
        stored, refusal = _insert(alias, entry, attempt)
        if stored := stored or _count_arrival(alias, entry.key):
            return stored
    raise cannot_insert(entry, refusal) from refusal


def swap(
    alias: str, entry: Entry, version: int, attempt: Attempt | None, deliveries: Sequence[Delivery]
) -> Stored | None:
    """`Store.swap` by an UPDATE and its rows. The caller has a transaction open."""
    rows = LogicalEmail.objects.using(alias).filter(key=entry.key, version=version)
    if not rows.update(version=version + 1, **columns(alias, entry)):
        return None
    row = _row(alias, entry.key)
    write_attempts(alias, row, [attempt] if attempt else [])
    write_deliveries(alias, row, deliveries)
    return stored_of(alias, row, entry.deliveries)


def get(alias: str, key: str) -> Stored | None:
    """`Store.get` by one SELECT, and one more where there are deliveries."""
    try:
        row = _row(alias, key)
    except LogicalEmail.DoesNotExist:
        return None
    return stored_of(alias, row, _deliveries(alias, row))


def stored_of(alias: str, row: LogicalEmail, deliveries: Sequence[Delivery], inserted: bool = False) -> Stored:
    """Return what the store answers with: the entry of ``row``, which was read with its ``store_now``."""
    now = read(alias, row.store_now)  # type: ignore[attr-defined]
    assert now is not None
    return Stored(entry_of(alias, vars(row), deliveries), now, inserted)


def _row(alias: str, key: str) -> LogicalEmail:
    return LogicalEmail.objects.using(alias).annotate(store_now=StoreNow()).get(key=key)


def _deliveries(alias: str, row: LogicalEmail) -> Sequence[Delivery]:
    if not row.attempts:
        return ()
    rows = DeliveryRow.objects.using(alias).filter(email=row, generation=row.generation).order_by("pk")
    return [delivery_of(found) for found in rows.values()]


def _insert(alias: str, entry: Entry, attempt: Attempt | None) -> tuple[Stored | None, IntegrityError | None]:
    """Return what was written, or why it was not: as a rule, because the key is there."""
    try:
        with transaction.atomic(using=alias):
            LogicalEmail.objects.using(alias).create(
                key=entry.key, version=entry.version, created_at=StoreNow(), **columns(alias, entry)
            )
    except IntegrityError as refusal:
        return None, refusal
    row = _row(alias, entry.key)
    write_attempts(alias, row, [attempt] if attempt else [])
    return stored_of(alias, row, (), inserted=True), None


def _count_arrival(alias: str, key: str) -> Stored | None:
    """Count and return what is there; None if it has gone meanwhile."""
    rows = LogicalEmail.objects.using(alias).filter(key=key)
    if not rows.update(arrivals=F("arrivals") + 1):
        return None
    row = _row(alias, key)
    return stored_of(alias, row, _deliveries(alias, row))


def write_attempts(alias: str, row: LogicalEmail, attempts: Sequence[Attempt]) -> None:
    """Write a row for each of ``attempts``, or its end where it has begun; in one statement."""
    rows = [
        SendAttempt(
            email_id=row.pk,
            generation=attempt.generation,
            number=attempt.number,
            part=attempt.part,
            task_id=attempt.task_id,
            worker=attempt.worker[:255],
            message_id=attempt.message_id[:255],
            recipients=attempt.recipients,
            started_at=written(alias, attempt.started_at),
            ended_at=written(alias, attempt.ended_at),
            outcome=attempt.outcome.value,
            code=attempt.code,
            detail=attempt.detail[:200],
        )
        for attempt in attempts
    ]
    _upsert(alias, rows, ["email", "generation", "number"], ["ended_at", "outcome", "code", "detail"])


def write_deliveries(alias: str, row: LogicalEmail, deliveries: Sequence[Delivery]) -> None:
    """Write a row for each delivery of the generation of ``row``, or what has changed of it."""
    rows = [
        DeliveryRow(
            email_id=row.pk, generation=row.generation, updated_at=StoreNow(), **delivery_columns(delivery)
        )
        for delivery in deliveries
    ]
    changing = ["status", "message_id", "code", "detail", "events", "updated_at"]
    _upsert(alias, rows, ["email", "generation", "part", "digest"], changing)


def _upsert(alias: str, rows: Sequence[Model], unique: list[str], changing: list[str]) -> None:
    if not rows:
        return
    # MySQL updates on any unique key and refuses to be told which.
    named = connections[alias].features.supports_update_conflicts_with_target
    type(rows[0])._default_manager.using(alias).bulk_create(
        rows,
        batch_size=_BATCH,
        update_conflicts=True,
        unique_fields=unique if named else None,
        update_fields=changing,
    )
