"""Times of rows, by the database's own clock: written, read and asked for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, overload
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connections
from django.db.models import DateTimeField, DurationField, ExpressionWrapper, Func, Value
from django.db.models.expressions import Combinable

from ..ledger.entry import After, Moment

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


@overload
def written(alias: str, value: Moment) -> Combinable | datetime: ...
@overload
def written(alias: str, value: Moment | None) -> Combinable | datetime | None: ...
def written(alias: str, value: Moment | None) -> Combinable | datetime | None:
    """Return ``value`` for a column of the database ``alias``, which fills an `After` in by its own clock."""
    if isinstance(value, After):
        if not value.seconds:
            return StoreNow()
        span = Value(timedelta(seconds=value.seconds), output_field=DurationField())
        return ExpressionWrapper(StoreNow() + span, output_field=DateTimeField())
    if value is None or settings.USE_TZ:
        return value
    return value.astimezone(_zone(alias)).replace(tzinfo=None)


def read(alias: str, value: datetime | str | None) -> datetime | None:
    """Return a time of the database ``alias`` as aware UTC, also where ``USE_TZ`` is off."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc if settings.USE_TZ else _zone(alias))
    return value.astimezone(timezone.utc)


def _zone(alias: str) -> tzinfo:
    """Return the zone of naive times: PostgreSQL converts to the connection's, the others keep our UTC."""
    connection = connections[alias]
    return ZoneInfo(connection.timezone_name) if connection.vendor == "postgresql" else timezone.utc


def clock(alias: str) -> datetime:
    """Return the time by the clock of the database ``alias``."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_CLOCKS[connections[alias].vendor])
        now = read(alias, cursor.fetchone()[0])
    assert now is not None
    return now
