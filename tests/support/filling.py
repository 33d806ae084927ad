"""A ledger of any size: one email's rows as the store wrote them, multiplied by the database."""

from __future__ import annotations

from typing import Any

from django.db import connections

from celery_idempotent.core.entry import Recipient
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Acquired, Asker, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.models import Delivery, LogicalEmail, SendAttempt
from celery_idempotent.stores.database import DatabaseStore

TYPE = "order-confirmation"
_SERIES = {
    "postgresql": "(SELECT n FROM generate_series({first}, {last}) AS n) AS s",
    "mysql": "(SELECT seq AS n FROM seq_{first}_to_{last}) AS s",
    "sqlite": "(WITH RECURSIVE c(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM c WHERE n < {last}) "
    "SELECT n FROM c) AS s",
}
_ANALYZE = {"postgresql": "VACUUM ANALYZE {0}", "mysql": "ANALYZE TABLE {0}", "sqlite": "ANALYZE {0}"}


def key(number: int) -> str:
    """Return the key of the ``number``-th email: as scattered as a real one."""
    from hashlib import md5

    return f"1:{md5(str(number).encode()).hexdigest() * 2}"


def asker(number: int, task_id: str = "") -> Asker:
    """Return who asks for it."""
    return Asker(key(number), TYPE, task_id or f"task-{number}", "worker@one", f"order={number}", "f" * 64)


def sent(ledger: Ledger, number: int) -> None:
    """Have the ``number``-th email claimed, handed over and completed."""
    outcome = ledger.claim(asker(number), Policy())
    assert isinstance(outcome, Acquired)
    targets = [("0", Recipient("d" * 64, "a***@example.com"))]
    begun = ledger.begin(outcome.entry, targets, f"<{number}@example.com>", asker(number), Policy())
    replies = {targets[0]: Reply(DeliveryStatus.ACCEPTED, 250, "OK")}
    settled = ledger.settle(begun, replies, f"<{number}@example.com>", asker(number), Policy())
    ledger.complete(settled, {"order": number})


def fill(alias: str, rows: int, batch: int = 500_000) -> None:
    """Bring the ledger on ``alias`` to ``rows`` sent emails, each with a delivery and an attempt."""
    connection = connections[alias]
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        from hashlib import md5

        connection.connection.create_function("md5", 1, lambda n: md5(str(n).encode()).hexdigest())
    sent(Ledger(DatabaseStore(lambda: alias)), 0)
    email = LogicalEmail.objects.using(alias).get(key=key(0))
    for first in range(1, rows, batch):
        last = min(first + batch - 1, rows - 1)
        series = _SERIES[connection.vendor].format(first=first, last=last)
        number = "CAST(s.n AS CHAR(20))" if connection.vendor == "mysql" else "CAST(s.n AS TEXT)"
        hashed = f"MD5({number})"
        where = {LogicalEmail: "t.id", Delivery: "t.email_id", SendAttempt: "t.email_id"}
        for model, column in where.items():
            changed = {
                "id": f"t.id + {10 * rows} + s.n",
                "email_id": f"t.email_id + {10 * rows} + s.n",
                "key": _joined(connection.vendor, "'1:'", hashed, hashed),
                "owner": hashed,
                "task_id": hashed,
                "digest": _joined(connection.vendor, hashed, hashed),
                "message_id": _joined(connection.vendor, "'<'", hashed, "'@example.com>'"),
            }
            names = [connection.ops.quote_name(field.column) for field in model._meta.concrete_fields]
            values = [
                changed.get(f.column, f"t.{n}") for f, n in zip(model._meta.concrete_fields, names, strict=True)
            ]
            table = model._meta.db_table
            with connection.cursor() as cursor:
                cursor.execute(
                    f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} "
                    f"FROM {table} t CROSS JOIN {series} WHERE {column} = {email.pk}"
                )
    _settle(alias, 20 * rows + email.pk)


def _joined(vendor: str, *parts: str) -> str:
    return f"CONCAT({', '.join(parts)})" if vendor == "mysql" else " || ".join(parts)


def _settle(alias: str, following: int) -> None:
    """Let the database know its statistics, and where ids go on."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        for model in (LogicalEmail, Delivery, SendAttempt):
            table = model._meta.db_table
            if connection.vendor == "postgresql":
                cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {following})")
            cursor.execute(_ANALYZE[connection.vendor].format(table))
            if connection.vendor == "mysql":
                cursor.fetchall()


def plans(alias: str, statements: list[tuple[str, Any]]) -> list[str]:
    """Return the tables that each of ``statements`` would read from end to end, one line each."""
    connection = connections[alias]
    found = []
    with connection.cursor() as cursor:
        for sql, parameters in statements:
            head = sql.lstrip().split(None, 1)[0].upper()
            if head not in ("SELECT", "UPDATE", "DELETE", "WITH", "INSERT"):
                continue
            prefix = {"postgresql": "EXPLAIN", "mysql": "EXPLAIN", "sqlite": "EXPLAIN QUERY PLAN"}[
                connection.vendor
            ]
            cursor.execute(f"{prefix} {sql}", parameters)
            names = [column[0] for column in cursor.description or ()]
            for row in cursor.fetchall():
                line = _full_scan(connection.vendor, dict(zip(names, row, strict=True)))
                if line:
                    found.append(f"{line}  in  {' '.join(sql.split())[:160]}")
    return found


def _full_scan(vendor: str, row: dict[str, Any]) -> str:
    text = " ".join(str(value) for value in row.values())
    if vendor == "mysql":
        ours = str(row.get("table") or "").startswith("celery_idempotent_")
        whole = ours and row.get("type") in ("ALL", "index") and row.get("select_type") != "INSERT"
        return f"{row['table']} {row['type']}" if whole else ""
    if vendor == "sqlite":
        return text if "SCAN celery_idempotent_" in text else ""
    return text.strip() if "Seq Scan on celery_idempotent_" in text else ""
