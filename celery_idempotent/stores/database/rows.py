"""Entries as rows of the ledger's tables, and times by the database's own clock."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connections
from django.db.models import DateTimeField, DurationField, ExpressionWrapper, Func, Value

from ...ledger.audit import as_rows, from_rows
from ...ledger.entry import After, Delivery, Entry, Moment, Recipient
from ...ledger.status import DeliveryStatus, Status

PLAIN = (
    "email_type", "claim_id", "label", "generation", "owner", "fingerprint", "attempts", "result", "error",
    "provider_key", "offers", "sealed", "unfinished",
)  # fmt: skip
TIMES = ("deadline", "begun_at", "sent_at", "recognised_until")
CLOCKS = {
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


def written(alias: str, value: Moment | None) -> Any:
    """Return ``value`` as something the database can put in by its own clock."""
    if isinstance(value, After):
        if not value.seconds:
            return StoreNow()
        span = Value(timedelta(seconds=value.seconds), output_field=DurationField())
        return ExpressionWrapper(StoreNow() + span, output_field=DateTimeField())
    if value is None or settings.USE_TZ:
        return value
    return value.astimezone(_zone(alias)).replace(tzinfo=None)


def read(alias: str, value: Any) -> datetime | None:
    """Return a time of the database as aware UTC, also where Django is told to do without time zones."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc if settings.USE_TZ else _zone(alias))
    result: datetime = value.astimezone(timezone.utc)
    return result


def _zone(alias: str) -> Any:
    """Return the zone of naive times: PostgreSQL converts to the connection's, the others keep our UTC."""
    connection = connections[alias]
    return ZoneInfo(connection.timezone_name) if connection.vendor == "postgresql" else timezone.utc


def clock(alias: str) -> datetime:
    """Return the time by the clock of the database ``alias``."""
    with connections[alias].cursor() as cursor:
        cursor.execute(CLOCKS[connections[alias].vendor])
        now = read(alias, cursor.fetchone()[0])
    assert now is not None
    return now


def columns(alias: str, entry: Entry) -> dict[str, Any]:
    """Return the columns of ``entry`` for the ORM, but for those that the store counts itself."""
    values = {name: getattr(entry, name) for name in PLAIN}
    values.update({name: written(alias, getattr(entry, name)) for name in TIMES})
    values["label"] = entry.label[:255]
    values["status"] = entry.status.value
    values |= lists(entry)
    values["updated_at"] = StoreNow()
    return values


def lists(entry: Entry) -> dict[str, Any]:
    """Return the columns of ``entry`` that hold lists, as plain JSON."""
    return {
        "participants": list(entry.participants),
        "past": list(entry.past),
        "audit": as_rows(entry.audit),
    }


def entry_of(alias: str, row: Mapping[str, Any], deliveries: Sequence[Delivery]) -> Entry:
    """Return the entry of a row, given as column names and values."""
    plain: dict[str, Any] = {name: row[name] for name in PLAIN}
    plain |= {name: read(alias, row[name]) for name in TIMES}
    plain["result"] = _loaded(row["result"])
    return Entry(
        key=row["key"],
        status=Status(row["status"]),
        version=row["version"],
        arrivals=row["arrivals"],
        created_at=read(alias, row["created_at"]),
        participants=tuple(_loaded(row["participants"])),
        past=tuple(_loaded(row["past"])),
        audit=from_rows(_loaded(row["audit"])),
        deliveries=tuple(deliveries),
        **plain,
    )


def delivery_of(row: Mapping[str, Any]) -> Delivery:
    """Return the delivery of a row, given as column names and values."""
    who = Recipient(row["digest"], row["recipient"])
    status = DeliveryStatus(row["status"])
    events = tuple((kind, datetime.fromisoformat(at)) for kind, at in _loaded(row["events"]))
    return Delivery(row["part"], who, status, row["message_id"], row["code"], row["detail"], events)


def delivery_columns(delivery: Delivery) -> dict[str, Any]:
    """Return the columns of ``delivery``, cut to what they hold."""
    return {
        "part": delivery.part,
        "digest": delivery.recipient.digest,
        "recipient": delivery.recipient.shown[:320],
        "status": delivery.status.value,
        "message_id": delivery.message_id[:255],
        "code": delivery.code,
        "detail": delivery.detail[:200],
        "events": [[kind, at.isoformat()] for kind, at in delivery.events],
    }


class Json(str):
    """A JSON column as a raw cursor returns it: text that is still to be read."""


def _loaded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, Json) else value
