"""A store in a Django database: PostgreSQL, MariaDB, MySQL or SQLite, by its own clock.

Writes commit on a connection of the ledger's own, so that a rollback of the caller's transaction does not
undo what really happened. `connection` decides which connection that is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DatabaseError, DataError, IntegrityError, connections, transaction
from django.db import Error as DjangoDatabaseError
from django.db.models import F

from ..core.entry import After, Attempt, Delivery, Entry
from ..core.errors import LedgerUnavailable, UnsafeTransaction
from ..core.forgetting import nobody, scrubbed
from ..core.status import IN_FLIGHT, Status
from ..core.store import Store, Stored
from ..models import Delivery as DeliveryRow
from ..models import LogicalEmail, SendAttempt
from . import postgresql
from .rows import CLOCKS, StoreNow, columns, delivery_columns, delivery_of, entry_of, read, written

_BATCH = 500
_ROUNDS = 5
_UNFINISHED = sorted(status.value for status in (*IN_FLIGHT, Status.RELEASED, Status.IN_DOUBT))


def open_transaction(alias: str) -> str | None:
    """Return the alias of a connection that holds a transaction open on the SQLite file of ``alias``."""
    database = _file(connections[alias])
    for other in connections.all(initialized_only=True):
        if other.vendor != "sqlite" or _file(other) != database:
            continue
        if other.in_atomic_block and not _in_testcase(other):
            return str(other.alias)
    return None


def _file(connection: Any) -> str:
    name = str(connection.settings_dict["NAME"])
    return name if name.startswith("file:") or name == ":memory:" else os.path.abspath(name)


def _in_testcase(connection: Any) -> bool:
    return any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


class DatabaseStore(Store):
    """Entries in the tables of `models`. ``alias`` is a callable: it depends on the caller's connection.

    With ``joining``, a transaction that the caller has open on the ledger's own SQLite connection is joined
    instead of refused: for eager tasks, which are part of their caller.
    """

    def __init__(self, alias: Callable[[], str] = lambda: DEFAULT_DB_ALIAS, joining: bool = False) -> None:
        self._alias = alias
        self._joining = joining

    @contextmanager
    def _connection(self) -> Iterator[str]:
        """Yield the alias to write on, for one atomic write. Database errors become `LedgerUnavailable`."""
        alias = self._alias()
        holder = open_transaction(alias) if connections[alias].vendor == "sqlite" else None
        if holder is not None and not (self._joining and holder == alias):
            raise UnsafeTransaction(
                f"a transaction is open on {holder!r}, the SQLite database that also keeps the ledger, and a "
                "second writer would wait for it forever. Nothing was sent. Send outside atomic() (for example "
                "with delay_on_commit), or give the ledger a file of its own: CELERY_IDEMPOTENT['DATABASE']"
            )
        with translated(alias):
            if connections[alias].vendor == "postgresql":
                yield alias  # one statement is a transaction of its own
            else:
                with transaction.atomic(using=alias):
                    yield alias

    def insert(self, entry: Entry, attempt: Attempt | None = None) -> Stored:
        """One statement on PostgreSQL; elsewhere an INSERT, or an UPDATE that counts the arrival."""
        with self._connection() as alias:
            if connections[alias].vendor == "postgresql":
                try:
                    stored = postgresql.insert(alias, entry, attempt)
                except IntegrityError as error:  # that the key is there is none
                    raise _cannot_insert(entry, error) from error
                return stored or self.get(entry.key) or self.insert(entry, attempt)
            for _ in range(_ROUNDS):
                stored, refusal = _insert(alias, entry, attempt)
                if stored := stored or _count_arrival(alias, entry.key):
                    return stored
        raise _cannot_insert(entry, refusal) from refusal

    def swap(
        self,
        entry: Entry,
        version: int,
        attempt: Attempt | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> Stored | None:
        """One statement on PostgreSQL; elsewhere an UPDATE and its rows in one transaction."""
        with self._connection() as alias:
            if connections[alias].vendor == "postgresql":
                return postgresql.swap(alias, entry, version, attempt, deliveries)
            rows = LogicalEmail.objects.using(alias).filter(key=entry.key, version=version)
            if not rows.update(version=version + 1, **columns(alias, entry)):
                return None
            row = _read(alias, entry.key)
            write_attempt(alias, row, attempt)
            write_deliveries(alias, row, deliveries)
            return _stored(alias, row, entry.deliveries)

    def get(self, key: str) -> Stored | None:
        """One SELECT, and one more where there are deliveries. Reading is harmless in any transaction."""
        alias = self._alias()
        with translated(alias):
            try:
                row = _read(alias, key)
            except LogicalEmail.DoesNotExist:
                return None
            return _stored(alias, row, _deliveries(alias, row))

    def get_many(self, keys: Sequence[str]) -> dict[str, Stored]:
        """One SELECT, without deliveries."""
        alias = self._alias()
        with translated(alias):
            rows = LogicalEmail.objects.using(alias).filter(key__in=keys).annotate(store_now=StoreNow())
            return {row.key: _stored(alias, row, ()) for row in rows}

    def due(self, limit: int = 100) -> Sequence[Entry]:
        """One SELECT on the (status, deadline) index; deliveries are not loaded."""
        with self._connection() as alias:
            rows = LogicalEmail.objects.using(alias).filter(
                status__in=[s.value for s in IN_FLIGHT], deadline__lte=StoreNow()
            )
            return [entry_of(alias, vars(row), ()) for row in rows.order_by("deadline")[:limit]]

    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        """Remove finished entries, their deliveries and attempts, in one transaction.

        The rows are locked first, where there are such locks: a claim that comes meanwhile finds them gone, and
        what a claim has locked stays.
        """
        with self._connection() as alias, transaction.atomic(using=alias):
            rows = LogicalEmail.objects.using(alias)
            # Not "status in (what is finished)": SQLite would go through the index of all that is finished.
            old = rows.filter(updated_at__lte=written(alias, After(-older_than))).order_by("updated_at")
            old = old.exclude(status__in=_UNFINISHED)
            if dry_run:
                return old[:limit].count()
            skipping = connections[alias].features.has_select_for_update_skip_locked
            keys = list(old.select_for_update(skip_locked=skipping).values_list("pk", flat=True)[:limit])
            _, counts = rows.filter(pk__in=keys).delete()
            return counts.get(LogicalEmail._meta.label, 0)

    def naming(self, digest: str) -> Sequence[str]:
        """One SELECT on the deliveries' index of digests."""
        with self._connection() as alias:
            rows = DeliveryRow.objects.using(alias).filter(digest=digest)
            return list(rows.values_list("email__key", flat=True).distinct())

    def erase(self, key: str, digest: str, words: Sequence[str]) -> None:
        """Erase the rows: of the generation that is, the entry has written new ones."""
        with self._connection() as alias, transaction.atomic(using=alias):
            rows = DeliveryRow.objects.using(alias).filter(email__key=key)
            rows.filter(digest=digest, generation=F("email__generation")).delete()
            for row in rows.filter(digest=digest):
                who = nobody()
                row.digest, row.recipient = who.digest, who.shown
                row.save(using=alias, update_fields=["digest", "recipient"])
            for table in (rows, SendAttempt.objects.using(alias).filter(email__key=key)):
                for told in table.exclude(detail=""):
                    table.filter(pk=told.pk).update(detail=scrubbed(told.detail, words))

    def problems(self) -> Sequence[str]:
        """Look for the tables. Raises `LedgerUnavailable` where they are missing or nobody answers."""
        self.get("")
        return ()

    def now(self) -> datetime:
        """One SELECT of the database's clock."""
        with self._connection() as alias, connections[alias].cursor() as cursor:
            cursor.execute(CLOCKS[connections[alias].vendor])
            now = read(alias, cursor.fetchone()[0])
            assert now is not None
            return now


@contextmanager
def translated(alias: str) -> Iterator[None]:
    """Turn errors of the database into `LedgerUnavailable`."""
    try:
        yield
    except (IntegrityError, DataError):
        raise  # not an outage: trying again would meet it again
    except DjangoDatabaseError as error:
        _drop(alias)
        raise LedgerUnavailable(_explain(alias, error)) from error


def _read(alias: str, key: str) -> LogicalEmail:
    return LogicalEmail.objects.using(alias).annotate(store_now=StoreNow()).get(key=key)


def _insert(alias: str, entry: Entry, attempt: Attempt | None) -> tuple[Stored | None, IntegrityError | None]:
    """Return what was written, or why it was not: as a rule, because the key is there."""
    try:
        with transaction.atomic(using=alias):
            LogicalEmail.objects.using(alias).create(
                key=entry.key, version=entry.version, created_at=StoreNow(), **columns(alias, entry)
            )
    except IntegrityError as refusal:
        return None, refusal
    row = _read(alias, entry.key)
    write_attempt(alias, row, attempt)
    return _stored(alias, row, (), inserted=True), None


def _cannot_insert(entry: Entry, refusal: IntegrityError | None) -> LedgerUnavailable:
    why = str(refusal).strip().partition("\n")[0]
    return LedgerUnavailable(
        f"{entry.key} cannot be inserted, and is not there either: {why}. Do the tables fit this version? "
        "`manage.py idempotency doctor` tells. Nothing was sent; the task is tried again"
    )


def _count_arrival(alias: str, key: str) -> Stored | None:
    """Count and return what is there; None if it has gone meanwhile."""
    rows = LogicalEmail.objects.using(alias).filter(key=key)
    if not rows.update(arrivals=F("arrivals") + 1):
        return None
    row = _read(alias, key)
    return _stored(alias, row, _deliveries(alias, row))


def _deliveries(alias: str, row: LogicalEmail) -> Sequence[Delivery]:
    if not row.attempts:
        return ()
    rows = DeliveryRow.objects.using(alias).filter(email=row, generation=row.generation).order_by("pk")
    return [delivery_of(found) for found in rows.values()]


def _stored(alias: str, row: LogicalEmail, deliveries: Sequence[Delivery], inserted: bool = False) -> Stored:
    now = read(alias, row.store_now)  # type: ignore[attr-defined]
    assert now is not None
    return Stored(entry_of(alias, vars(row), deliveries), now, inserted)


def write_attempt(alias: str, row: LogicalEmail, attempt: Attempt | None) -> None:
    """Write the row of ``attempt``, or its end where it has begun."""
    if attempt is None:
        return
    rows = SendAttempt.objects.using(alias)
    place = {"email_id": row.pk, "generation": attempt.generation, "number": attempt.number}
    ended = {
        "ended_at": written(alias, attempt.ended_at),
        "outcome": attempt.outcome.value,
        "code": attempt.code,
        "detail": attempt.detail[:200],
    }
    if attempt.ended_at is not None and rows.filter(**place).update(**ended):
        return
    rows.create(
        part=attempt.part,
        task_id=attempt.task_id,
        worker=attempt.worker[:255],
        message_id=attempt.message_id[:255],
        recipients=attempt.recipients,
        started_at=written(alias, attempt.started_at),
        **place,
        **ended,
    )


def write_deliveries(alias: str, row: LogicalEmail, deliveries: Sequence[Delivery]) -> None:
    """Write a row for each delivery of the generation of ``row``, or what has changed of it."""
    rows = [
        DeliveryRow(
            email_id=row.pk, generation=row.generation, updated_at=StoreNow(), **delivery_columns(delivery)
        )
        for delivery in deliveries
    ]
    # MySQL updates on any unique key and refuses to be told which.
    named = connections[alias].features.supports_update_conflicts_with_target
    DeliveryRow.objects.using(alias).bulk_create(
        rows,
        batch_size=_BATCH,
        update_conflicts=True,
        unique_fields=["email", "generation", "part", "digest"] if named else None,
        update_fields=["status", "message_id", "code", "detail", "events", "updated_at"],
    )


def _drop(alias: str) -> None:
    """Close a connection that an error left unusable, so that the next try opens a new one."""
    connection = connections[alias]
    if connection.in_atomic_block:
        return
    try:
        connection.close_if_unusable_or_obsolete()
    except DatabaseError:
        connection.connection = None


def _explain(alias: str, error: Exception) -> str:
    table = LogicalEmail._meta.db_table
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    missing = ("no such table", "does not exist", "doesn't exist")
    if table in text and any(words in text for words in missing):
        return (
            f"database {alias!r} has no table {table}: run `manage.py migrate --database=<the ledger's>`. "
            "Nothing was sent; the task is tried again"
        )
    return f"the ledger in database {alias!r} does not answer: {text}"
