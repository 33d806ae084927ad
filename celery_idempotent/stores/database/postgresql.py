"""The two writing primitives on PostgreSQL: one statement each, with all rows that go with it.

``INSERT … ON CONFLICT`` tells a new row by its ``xmax`` of 0; what belongs to it is written by data-modifying
``WITH`` queries (PostgreSQL manual, 7.8.4), so that everything is there or nothing is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connections

from ...ledger.entry import After, Attempt, Delivery, Entry, Moment
from ...ledger.store import Stored
from ...models import Delivery as DeliveryRow
from ...models import LogicalEmail, SendAttempt
from ...models.clock import read, written
from .rows import PLAIN, TIMES, Json, delivery_columns, delivery_of, entry_of, lists

_EMAIL, _DELIVERY, _ATTEMPT = (model._meta.db_table for model in (LogicalEmail, DeliveryRow, SendAttempt))
_NOW = "STATEMENT_TIMESTAMP()"
_TIME = f"COALESCE(%s::timestamptz, {_NOW} + %s * INTERVAL '1 second')"
_JSON = ("result", "participants", "past", "audit")
_DELIVERED = ("part", "digest", "recipient", "status", "message_id", "code", "detail", "events")
_TYPES = {"code": "int", "events": "jsonb"}
_ENDED = ("ended_at", "outcome", "code", "detail")


def insert(alias: str, entry: Entry, attempt: Attempt | None) -> Stored | None:
    """`Store.insert` in one statement; None where the entry has to be read again.

    ``ON CONFLICT DO UPDATE`` returns the row as it is now, but the deliveries are those of the statement's
    snapshot: they belong together only if the snapshot has the same version.
    """
    names, marks, values = _entry_columns(alias, entry)
    begun, more = _attempt_query(alias, attempt, "WHERE e.inserted")
    query = f"""
        WITH e AS (
            INSERT INTO {_EMAIL} (key, version, arrivals, created_at, updated_at, {", ".join(names)})
            VALUES (%s, %s, 1, {_NOW}, {_NOW}, {", ".join(marks)})
            ON CONFLICT (key) DO UPDATE SET arrivals = {_EMAIL}.arrivals + 1
            RETURNING *, (xmax = 0) AS inserted
        ) {begun}
        SELECT e.*, {_NOW} AS store_now,
            (SELECT s.version FROM {_EMAIL} s WHERE s.id = e.id) AS seen, (
            SELECT json_agg(d ORDER BY d.id) FROM {_DELIVERY} d
            WHERE d.email_id = e.id AND d.generation = e.generation AND e.attempts > 0
        )::text AS deliveries FROM e"""
    row = _one(alias, query, [entry.key, entry.version, *values, *more])
    assert row is not None
    if not row["inserted"] and row["seen"] != row["version"]:
        return None
    deliveries = [delivery_of(d) for d in json.loads(row["deliveries"] or "[]")]
    return _stored(alias, row, deliveries, inserted=row["inserted"])


def swap(
    alias: str, entry: Entry, version: int, attempt: Attempt | None, deliveries: Sequence[Delivery]
) -> Stored | None:
    """`Store.swap` in one statement."""
    names, marks, values = _entry_columns(alias, entry)
    changes = ", ".join(f"{name} = {mark}" for name, mark in zip(names, marks, strict=True))
    begun, more = _attempt_query(alias, attempt, _on_conflict("email_id, generation, number", _ENDED))
    offered, rows = _delivery_query(deliveries)
    query = f"""
        WITH e AS (
            UPDATE {_EMAIL} SET version = version + 1, updated_at = {_NOW}, {changes}
            WHERE key = %s AND version = %s RETURNING *
        ) {begun} {offered}
        SELECT e.*, {_NOW} AS store_now FROM e"""
    row = _one(alias, query, [*values, entry.key, version, *more, *rows])
    return None if row is None else _stored(alias, row, entry.deliveries)


def _entry_columns(alias: str, entry: Entry) -> tuple[list[str], list[str], list[Any]]:
    """Return names, placeholders and parameters of the columns that every write sets."""
    plain = {name: getattr(entry, name) for name in PLAIN if name not in _JSON}
    plain |= {"label": entry.label[:255], "status": entry.status.value}
    texts = {"result": entry.result, **lists(entry)}
    names = [*plain, *texts, *TIMES]
    marks = ["%s"] * len(plain) + ["%s::jsonb"] * len(texts) + [_TIME] * len(TIMES)
    times = [value for name in TIMES for value in _time(alias, getattr(entry, name))]
    return names, marks, [*plain.values(), *(_json(value) for value in texts.values()), *times]


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _time(alias: str, value: Moment | None) -> tuple[Any, float | None]:
    """Return the two parameters of `_TIME`."""
    return (None, value.seconds) if isinstance(value, After) else (written(alias, value), None)


def _attempt_query(alias: str, attempt: Attempt | None, rest: str) -> tuple[str, list[Any]]:
    if attempt is None:
        return "", []
    plain = {
        "generation": attempt.generation,
        "number": attempt.number,
        "part": attempt.part,
        "task_id": attempt.task_id,
        "worker": attempt.worker[:255],
        "message_id": attempt.message_id[:255],
        "recipients": attempt.recipients,
        "outcome": attempt.outcome.value,
        "code": attempt.code,
        "detail": attempt.detail[:200],
    }
    marks = ["%s::int" if name == "code" else "%s" for name in plain]
    query = f""", a AS (
        INSERT INTO {_ATTEMPT} (email_id, {", ".join(plain)}, started_at, ended_at)
        SELECT e.id, {", ".join(marks)}, {_TIME}, {_TIME} FROM e {rest})"""
    return query, [*plain.values(), *_time(alias, attempt.started_at), *_time(alias, attempt.ended_at)]


def _delivery_query(deliveries: Sequence[Delivery]) -> tuple[str, list[str]]:
    if not deliveries:
        return "", []
    names = ", ".join(_DELIVERED)
    types = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in _DELIVERED)
    changed = [name for name in _DELIVERED if name not in ("part", "digest", "recipient")]
    query = f""", d AS (
        INSERT INTO {_DELIVERY} (email_id, generation, updated_at, {names})
        SELECT e.id, e.generation, {_NOW}, {", ".join(f"r.{name}" for name in _DELIVERED)}
        FROM e, jsonb_to_recordset(%s::jsonb) AS r({types})
        {_on_conflict("email_id, generation, part, digest", [*changed, "updated_at"])})"""
    return query, [json.dumps([delivery_columns(d) for d in deliveries])]


def _on_conflict(key: str, names: Iterable[str]) -> str:
    return f"ON CONFLICT ({key}) DO UPDATE SET " + ", ".join(f"{name} = EXCLUDED.{name}" for name in names)


def _one(alias: str, query: str, parameters: Sequence[Any]) -> dict[str, Any] | None:
    with connections[alias].cursor() as cursor:
        cursor.execute(query, parameters)
        row = cursor.fetchone()
        names = [column[0] for column in cursor.description or ()]
    if row is None:
        return None
    found = dict(zip(names, row, strict=True))
    for name in _JSON:
        if isinstance(found[name], str):  # Django has psycopg leave jsonb unread
            found[name] = Json(found[name])
    return found


def _stored(
    alias: str, row: Mapping[str, Any], deliveries: Sequence[Delivery], inserted: bool = False
) -> Stored:
    now = read(alias, row["store_now"])
    assert now is not None
    return Stored(entry_of(alias, row, deliveries), now, inserted)
