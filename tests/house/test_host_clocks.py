"""Clock skew between hosts cannot matter: nothing that is compared between them is read from a host's clock."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import celery_idempotent

PACKAGE = Path(celery_idempotent.__file__).parent
OF_THE_DAY = ("now", "utcnow", "today", "time", "time_ns", "localtime", "localdate", "gmtime", "ctime")
CLOCKS = ("time", "datetime", "date", "timezone")
MODULES = ("time", "datetime", "django.utils.timezone")
MAY = {
    "stores/memory.py _utc_now": "the store of one process, whose clock is the host's",
    "outbox/options.py checked": "a countdown begins at the call, and becomes an ETA as Celery makes one",
    "tasks/idempotent.py _seconds_until": "when a Retry is due, by the clock of the worker that raises it",
    "contrib/django_tasks.py _hand_on": "run_after, which the queue's workers compare with theirs",
    "contrib/anymail/api_errors.py _wait": "how long a provider wants to be left alone that sends no Date",
    "admin/decisions.py exact": "a moment of the store's, shown in the reader's time zone",
}
"""Functions that read the host's clock, each with the reason for which that does no harm."""


def reads(tree: ast.AST, names: tuple[str, ...], inside: str = "") -> Iterator[str]:
    """Yield the function around each place that reads a clock by one of ``names``, or hides that it does."""
    for node in ast.iter_child_nodes(tree):
        where = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else inside
        match node:
            case ast.Attribute(ast.Name(of) | ast.Attribute(attr=of), name) if of in CLOCKS and name in names:
                yield where
            case ast.Import() if any(one.asname and one.name in MODULES for one in node.names):
                yield where
            case ast.ImportFrom(module="datetime") if any(one.asname for one in node.names):
                yield where
            case ast.ImportFrom("time" | "django.utils.timezone") if any(n.name in names for n in node.names):
                yield where
        yield from reads(node, names, where)


def test_who_reads_the_hosts_clock_has_a_reason() -> None:
    """All over the package. Durations, by a monotonic clock, are the same on every host."""
    found = {
        f"{path.relative_to(PACKAGE).as_posix()} {function}"
        for path in PACKAGE.rglob("*.py")
        for function in reads(ast.parse(path.read_text(encoding="utf-8")), OF_THE_DAY)
    }
    assert found == set(MAY)


def test_the_ledgers_package_reads_no_clock_at_all() -> None:
    """No decision, and not even a duration."""
    names = (*OF_THE_DAY, "monotonic", "perf_counter")
    for path in (PACKAGE / "ledger").glob("*.py"):
        assert list(reads(ast.parse(path.read_text(encoding="utf-8")), names)) == [], path


@pytest.mark.parametrize(
    "code",
    [
        *("time.time()", "datetime.now(zone)", "datetime.datetime.utcnow()", "timezone.now()", "date.today()"),
        *("import time as t", "from time import time", "from datetime import datetime as dt"),
        "from django.utils.timezone import now",
    ],
)
def test_every_way_to_read_one_is_seen(code: str) -> None:
    """So that the tests above can fail."""
    assert list(reads(ast.parse(f"def f():\n    {code}"), OF_THE_DAY)) == ["f"]
