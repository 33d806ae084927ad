"""A store in a Django database: PostgreSQL, MariaDB, MySQL or SQLite, by its own clock.

Writes commit on a connection of the ledger's own, so that a rollback of the caller's transaction does not
undo what really happened. `connection` decides which connection that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DatabaseError, IntegrityError, connections, transaction
from django.db import Error as DjangoDatabaseError
from django.db.models import DateTimeField, DurationField, ExpressionWrapper, F, Func, Value

from ..core.entry import After, Attempt, Delivery, Entry, Moment, Recipient
from ..core.errors import LedgerUnavailable, UnsafeTransaction
from ..core.status import IN_FLIGHT, DeliveryStatus, Status
from ..core.store import Store, Stored
from ..models import Delivery as DeliveryRow
from ..models import LogicalEmail, SendAttempt

_BATCH = 500
_PURGEABLE = [Status.SENT.value, Status.FAILED.value, Status.CANCELLED.value]
_PLAIN = (
    "email_type",
    "claim_id",
    "label",
    "generation",
    "owner",
    "fingerprint",
    "attempts",
    "result",
    "error",
)
_TIMES = ("deadline", "begun_at", "sent_at")
_CLOCKS = {
    "postgresql": "SELECT STATEMENT_TIMESTAMP()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "sqlite": "SELECT STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')",
}


class StoreNow(Func):
    """The database's clock at this statement, in UTC."""

    template = "STATEMENT_TIMESTAMP()"
    output_field = DateTimeField()

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        """Django leaves MySQL's session time zone alone, so CURRENT_TIMESTAMP would be local time."""
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        """Milliseconds are all that SQLite's clock has; the format is the one Django compares with."""
        return self.as_sql(
            compiler, connection, template="STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'NOW')", **extra
        )


def _moment(value: Moment | None) -> Any:
    """Return ``value`` as something the database can put in by its own clock."""
    if not isinstance(value, After):
        return value
    if not value.seconds:
        return StoreNow()
    span = Value(timedelta(seconds=value.seconds), output_field=DurationField())
    return ExpressionWrapper(StoreNow() + span, output_field=DateTimeField())


def open_transaction(alias: str) -> str | None:
    """Return the alias of a connection that holds a transaction open on the SQLite file of ``alias``."""
    database = connections[alias].settings_dict["NAME"]
    for other in connections.all(initialized_only=True):
        if other.vendor != "sqlite" or other.settings_dict["NAME"] != database:
            continue
        if other.in_atomic_block and not _in_testcase(other):
            return str(other.alias)
    return None


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
        """Yield the alias to write on, inside one transaction. Database errors become `LedgerUnavailable`."""
        alias = self._alias()
        holder = open_transaction(alias) if connections[alias].vendor == "sqlite" else None
        if holder is not None and not (self._joining and holder == alias):
            raise UnsafeTransaction(
                f"a transaction is open on {holder!r}, the SQLite database that also keeps the ledger, and a "
                "second writer would wait for it forever. Nothing was sent. Send outside atomic() (for example "
                "with delay_on_commit), or give the ledger a file of its own: CELERY_IDEMPOTENT['DATABASE']"
            )
        with _translated(alias), transaction.atomic(using=alias):
            yield alias

    def insert(self, entry: Entry, attempt: Attempt | None = None) -> Stored:
        """One INSERT; where the key is there already, one UPDATE that counts and one SELECT."""
        with self._connection() as alias:
            try:
                with transaction.atomic(using=alias):
                    LogicalEmail.objects.using(alias).create(
                        key=entry.key, version=entry.version, created_at=StoreNow(), **_columns(entry)
                    )
            except IntegrityError:
                LogicalEmail.objects.using(alias).filter(key=entry.key).update(arrivals=F("arrivals") + 1)
                known = _read(alias, entry.key)
                return _stored(known, _deliveries(alias, known))
            row = _read(alias, entry.key)
            _write_attempt(alias, row, attempt)
            return _stored(row, (), inserted=True)

    def swap(
        self,
        entry: Entry,
        version: int,
        attempt: Attempt | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> Stored | None:
        """One UPDATE on (key, version); deliveries and the attempt go with it in the same transaction."""
        with self._connection() as alias:
            rows = LogicalEmail.objects.using(alias).filter(key=entry.key, version=version)
            if not rows.update(version=version + 1, **_columns(entry)):
                return None
            row = _read(alias, entry.key)
            _write_attempt(alias, row, attempt)
            _write_deliveries(alias, row, deliveries)
            return _stored(row, entry.deliveries)

    def get(self, key: str) -> Stored | None:
        """One SELECT, and one more where there are deliveries. Reading is harmless in any transaction."""
        alias = self._alias()
        with _translated(alias):
            try:
                row = _read(alias, key)
            except LogicalEmail.DoesNotExist:
                return None
            return _stored(row, _deliveries(alias, row))

    def due(self, limit: int = 100) -> Sequence[Entry]:
        """One SELECT on the (status, deadline) index; deliveries are not loaded."""
        with self._connection() as alias:
            rows = LogicalEmail.objects.using(alias).filter(
                status__in=[s.value for s in IN_FLIGHT], deadline__lte=StoreNow()
            )
            return [_entry(row, ()) for row in rows.order_by("deadline")[:limit]]

    def purge(self, older_than: float, limit: int = 1000) -> int:
        """Remove finished entries, their deliveries and attempts, in one transaction."""
        with self._connection() as alias:
            rows = LogicalEmail.objects.using(alias)
            old = rows.filter(status__in=_PURGEABLE, updated_at__lte=_moment(After(-older_than)))
            keys = list(old.order_by("updated_at").values_list("pk", flat=True)[:limit])
            _, counts = rows.filter(pk__in=keys, status__in=_PURGEABLE).delete()
            return counts.get(LogicalEmail._meta.label, 0)

    def now(self) -> datetime:
        """One SELECT of the database's clock."""
        with self._connection() as alias, connections[alias].cursor() as cursor:
            cursor.execute(_CLOCKS[connections[alias].vendor])
            return _aware(cursor.fetchone()[0])


@contextmanager
def _translated(alias: str) -> Iterator[None]:
    """Turn errors of the database into `LedgerUnavailable`."""
    try:
        yield
    except IntegrityError:
        raise
    except DjangoDatabaseError as error:
        _drop(alias)
        raise LedgerUnavailable(_explain(alias, error)) from error


def _read(alias: str, key: str) -> LogicalEmail:
    return LogicalEmail.objects.using(alias).annotate(store_now=StoreNow()).get(key=key)


def _deliveries(alias: str, row: LogicalEmail) -> Sequence[Delivery]:
    if not row.attempts:
        return ()
    rows = DeliveryRow.objects.using(alias).filter(email=row, generation=row.generation).order_by("pk")
    return [
        Delivery(
            d.part, Recipient(d.digest, d.recipient), DeliveryStatus(d.status), d.message_id, d.code, d.detail
        )
        for d in rows
    ]


def _stored(row: LogicalEmail, deliveries: Sequence[Delivery], inserted: bool = False) -> Stored:
    now = _aware(row.store_now)  # type: ignore[attr-defined]
    return Stored(_entry(row, deliveries), now, inserted)


def _entry(row: LogicalEmail, deliveries: Sequence[Delivery]) -> Entry:
    return Entry(
        key=row.key,
        status=Status(row.status),
        version=row.version,
        created_at=row.created_at,
        arrivals=row.arrivals,
        participants=tuple(row.participants),
        deliveries=tuple(deliveries),
        **{name: getattr(row, name) for name in (*_PLAIN, *_TIMES)},
    )


def _columns(entry: Entry) -> dict[str, Any]:
    columns = {name: getattr(entry, name) for name in _PLAIN}
    columns.update({name: _moment(getattr(entry, name)) for name in _TIMES})
    columns["label"] = entry.label[:255]
    columns["status"] = entry.status.value
    columns["participants"] = list(entry.participants)
    columns["updated_at"] = StoreNow()
    return columns


def _write_attempt(alias: str, row: LogicalEmail, attempt: Attempt | None) -> None:
    if attempt is None:
        return
    rows = SendAttempt.objects.using(alias)
    place = {"email_id": row.pk, "generation": attempt.generation, "number": attempt.number}
    ended = {
        "ended_at": _moment(attempt.ended_at),
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
        started_at=_moment(attempt.started_at),
        **place,
        **ended,
    )


def _write_deliveries(alias: str, row: LogicalEmail, deliveries: Sequence[Delivery]) -> None:
    rows = [
        DeliveryRow(
            email_id=row.pk,
            generation=row.generation,
            part=d.part,
            digest=d.recipient.digest,
            recipient=d.recipient.shown[:320],
            status=d.status.value,
            message_id=d.message_id[:255],
            code=d.code,
            detail=d.detail[:200],
            updated_at=StoreNow(),
        )
        for d in deliveries
    ]
    # MySQL updates on any unique key and refuses to be told which.
    named = connections[alias].features.supports_update_conflicts_with_target
    DeliveryRow.objects.using(alias).bulk_create(
        rows,
        batch_size=_BATCH,
        update_conflicts=True,
        unique_fields=["email", "generation", "part", "digest"] if named else None,
        update_fields=["status", "message_id", "code", "detail", "updated_at"],
    )


def _aware(value: Any) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    result: datetime = value.astimezone(timezone.utc)
    return result


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
