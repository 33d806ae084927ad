"""A ledger of any size: one email's rows as the store wrote them, multiplied by the database."""

from __future__ import annotations

from hashlib import md5
from typing import Any

from django.db import connections

from celery_idempotent.core.entry import Recipient
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Acquired, Asker, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.models import Delivery, LogicalEmail, SendAttempt
from celery_idempotent.stores.database import DatabaseStore

TYPE = "order-confirmation"
_NUMBERS = {
    "postgresql": "SELECT n FROM generate_series(1, {0}) AS n",
    "mysql": "SELECT seq AS n FROM seq_1_to_{0}",
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {0}) SELECT n FROM c",
}
_ANALYZE = {"postgresql": "VACUUM ANALYZE {0}", "mysql": "ANALYZE TABLE {0}", "sqlite": "ANALYZE {0}"}


def key(number: int) -> str:
    """Return the key of the ``number``-th email: as scattered as a real one."""
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


def fill(alias: str, rows: int) -> None:
    """Bring the ledger on ``alias`` to ``rows`` sent emails, each with a delivery and an attempt.

    In the order of their keys, or each row would be written to a page of its own.
    """
    connection = connections[alias]
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        connection.connection.create_function("md5", 1, lambda n: md5(str(n).encode()).hexdigest())
    sent(Ledger(DatabaseStore(lambda: alias)), 0)
    email = LogicalEmail.objects.using(alias).get(key=key(0))
    numbers = _NUMBERS[connection.vendor].format(rows - 1)
    text = "CHAR(20)" if connection.vendor == "mysql" else "TEXT"
    hashes = (
        "SELECT h, ROW_NUMBER() OVER (ORDER BY h) AS n "
        f"FROM (SELECT MD5(CAST(n AS {text})) AS h FROM ({numbers}) AS a) AS b"
    )
    for model, column in {LogicalEmail: "id", Delivery: "email_id", SendAttempt: "email_id"}.items():
        changed = _changed(connection.vendor, rows)
        fields = [field.column for field in model._meta.concrete_fields]
        names = [connection.ops.quote_name(name) for name in fields]
        values = [changed.get(name, f"t.{quoted}") for name, quoted in zip(fields, names, strict=True)]
        table = model._meta.db_table
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} "
                f"FROM {table} AS t CROSS JOIN ({hashes}) AS s WHERE t.{column} = {email.pk} ORDER BY s.n"
            )
    _settle(alias, 2 * rows + email.pk)


def _changed(vendor: str, rows: int) -> dict[str, str]:
    """Return the columns in which the emails differ, as SQL over the template ``t`` and the series ``s``."""
    return {
        "id": f"t.id + {rows} + s.n",
        "email_id": f"t.email_id + {rows} + s.n",
        "key": _joined(vendor, "'1:'", "s.h", "s.h"),
        "owner": "s.h",
        "task_id": "s.h",
        "digest": _joined(vendor, "s.h", "s.h"),
        "message_id": _joined(vendor, "'<'", "s.h", "'@example.com>'"),
    }


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
