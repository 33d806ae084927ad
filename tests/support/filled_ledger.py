"""A ledger of any size: one email's rows as the store wrote them, multiplied by the database; and its plans."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5
from typing import Any

from django.db import connections

from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage, SendAttempt
from celery_idempotent.outbox import rows as outbox_rows
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.testing import hold

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


def claimant(number: int, task_id: str = "") -> Claimant:
    """Return who asks for it."""
    return Claimant(key(number), TYPE, task_id or f"task-{number}", "worker@one", f"order={number}", "f" * 64)


def sent(ledger: Ledger, number: int) -> None:
    """Have the ``number``-th email claimed, handed over and completed."""
    outcome = ledger.claim(claimant(number), Policy())
    assert isinstance(outcome, Acquired)
    targets = [("0", Recipient("d" * 64, "a***@example.com"))]
    begun = hold(ledger, outcome.entry, claimant(number), Policy()).begin(targets, f"<{number}@example.com>")
    replies = {targets[0]: Reply(DeliveryStatus.ACCEPTED, 250, "OK")}
    settled = hold(ledger, begun, claimant(number), Policy()).settle(replies, f"<{number}@example.com>")
    hold(ledger, settled).complete({"order": number})


def fill(alias: str, rows: int) -> None:
    """Bring the ledger on ``alias`` to ``rows`` sent emails, each with a delivery and an attempt.

    In the order of their keys, or each row would be written to a page of its own.
    """
    sent(Ledger(DatabaseStore(lambda: alias)), 0)
    email = LogicalEmail.objects.using(alias).get(key=key(0))
    for model, column in {LogicalEmail: "id", Delivery: "email_id", SendAttempt: "email_id"}.items():
        _multiply(alias, model, f"t.{column} = {email.pk}", rows)
    _settle(alias, LogicalEmail, Delivery, SendAttempt)


def fill_outbox(alias: str, rows: int, due: int) -> None:
    """Bring the outbox on ``alias`` to ``rows`` messages for emails of the ledger, of which ``due`` are due."""
    first = OutboxMessage(task_id="first", task=TYPE, key=key(0), label="order=0", payload="{}")
    outbox_rows.add(alias, [first])
    outbox_rows.wait(alias, [first], 86_400.0)
    row = outbox_rows.rows_of(alias).get()
    _multiply(alias, OutboxMessage, f"t.id = {row.pk}", rows)
    outbox_rows.give_back(
        alias, outbox_rows.rows_of(alias).order_by("-pk")[:due]
    )  # a purge begins with the first
    _settle(alias, OutboxMessage)


def _multiply(alias: str, model: type[Any], condition: str, rows: int) -> None:
    """Have ``rows`` of ``model`` in place of the one that fulfils ``condition`` on the template ``t``."""
    connection = connections[alias]
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        connection.connection.create_function("md5", 1, lambda n: md5(str(n).encode()).hexdigest())
    numbers = _NUMBERS[connection.vendor].format(rows - 1)
    text = "CHAR(20)" if connection.vendor == "mysql" else "TEXT"
    hashes = (
        "SELECT h, ROW_NUMBER() OVER (ORDER BY h) AS n "
        f"FROM (SELECT MD5(CAST(n AS {text})) AS h FROM ({numbers}) AS a) AS b"
    )
    changed = _changed(connection.vendor, rows)
    fields = [field.column for field in model._meta.concrete_fields]
    names = [connection.ops.quote_name(name) for name in fields]
    values = [changed.get(name, f"t.{quoted}") for name, quoted in zip(fields, names, strict=True)]
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} "
            f"FROM {table} AS t CROSS JOIN ({hashes}) AS s WHERE {condition} ORDER BY s.n"
        )


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


def _settle(alias: str, *models: type[Any]) -> None:
    """Let the database know its statistics, and where ids go on: each table had other rows before."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        for model in models:
            table = model._meta.db_table
            if connection.vendor == "postgresql":
                last = f"(SELECT MAX(id) FROM {table})"
                cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {last})")
            cursor.execute(_ANALYZE[connection.vendor].format(table))
            if connection.vendor == "mysql":
                cursor.fetchall()


@contextmanager
def heard(alias: str) -> Iterator[list[tuple[str, Any]]]:
    """Yield a list of the statements that go to the database meanwhile."""
    statements: list[tuple[str, Any]] = []

    def listen(execute: Callable[..., Any], sql: str, parameters: Any, many: bool, context: Any) -> Any:
        statements.append((sql, parameters))
        return execute(sql, parameters, many, context)

    with connections[alias].execute_wrapper(listen):
        yield statements


_EXPLAIN = {"postgresql": "EXPLAIN (FORMAT JSON)", "mysql": "EXPLAIN", "sqlite": "EXPLAIN QUERY PLAN"}


def plans(alias: str, statements: list[tuple[str, Any]]) -> list[str]:
    """Return the tables and indexes that ``statements`` would read from end to end, one line each."""
    vendor, found = connections[alias].vendor, []
    with connections[alias].cursor() as cursor:
        for sql, parameters in statements:
            if sql.lstrip().split(None, 1)[0].upper() not in ("SELECT", "UPDATE", "DELETE", "WITH", "INSERT"):
                continue
            cursor.execute(f"{_EXPLAIN[vendor]} {sql}", parameters)
            names = [column[0] for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            found += [f"{line}  in  {' '.join(sql.split())[:160]}" for line in _WALKS[vendor](rows)]
    return found


def _walks_of_mysql(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        derived = str(row.get("table") or "<").startswith("<")
        if not derived and row["type"] in ("ALL", "index") and row["select_type"] != "INSERT":
            yield f"{row['table']} {row['type']} {row['key'] or ''}".strip()


def _walks_of_sqlite(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from (row["detail"] for row in rows if row["detail"].startswith("SCAN celery_idempotent_"))


def _walks_of_postgresql(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A table, or an index without a condition on what is looked for in it."""
    (said,) = rows[0].values()
    nodes = [one["Plan"] for one in (json.loads(said) if isinstance(said, str) else said)]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", ())
        kind, table = node["Node Type"], node.get("Relation Name", "")
        if kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node):
            yield f"{kind} on {table} {node.get('Index Name', '')}".strip()


_WALKS = {"mysql": _walks_of_mysql, "sqlite": _walks_of_sqlite, "postgresql": _walks_of_postgresql}
