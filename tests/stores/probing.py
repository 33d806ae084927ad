"""Statements that Django sends, the database's own plan for each, and whether that probes an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections


def analyse(alias: str) -> None:
    tables = ("celery_idempotent_outboxmessage", "celery_idempotent_logicalemail")
    with connections[alias].cursor() as cursor:
        for table in tables:
            cursor.execute(
                {"mysql": f"ANALYZE TABLE {table}"}.get(connections[alias].vendor, f"ANALYZE {table}")
            )
            if cursor.description:
                cursor.fetchall()


def told(alias: str, work: Callable[[], Any]) -> list[tuple[str, Any]]:
    """Do ``work`` and return its statements with the plan of each."""
    statements: list[tuple[str, Any]] = []

    def listen(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.split()[0] in ("SELECT", "UPDATE", "DELETE"):
            statements.append((sql, params))
        return execute(sql, params, many, context)

    with connections[alias].execute_wrapper(listen):
        work()
    assert statements
    explain = "EXPLAIN QUERY PLAN " if connections[alias].vendor == "sqlite" else "EXPLAIN "
    plans = []
    with connections[alias].cursor() as cursor:
        for sql, params in statements:
            cursor.execute(explain + sql, params)
            names = [column[0] for column in cursor.description]
            plans.append((sql, [dict(zip(names, line, strict=True)) for line in cursor.fetchall()]))
    return plans


def probes(vendor: str, plan: list[dict[str, Any]], in_order: bool = True) -> bool:
    """Tell whether ``plan`` finds its rows by an index, and ``in_order``."""
    lines = " | ".join(str(value) for line in plan for value in line.values())
    if in_order and any(sorts in lines for sorts in ("filesort", "Sort", "TEMP B-TREE")):
        return False
    if vendor == "mysql":
        kinds = ("range", "ref", "const", "eq_ref", "system")
        return all(line["type"] in kinds and line["key"] for line in plan)
    if vendor == "postgresql":
        return "Seq Scan" not in lines and "Index" in lines
    return "SCAN" not in lines and "SEARCH" in lines
