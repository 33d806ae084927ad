"""What is wrong is said: by ``doctor``, and by every command that comes upon it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from io import StringIO
from typing import Any

import pytest
from celery import Celery
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage
from tests.management.calling import DOUBTFUL, WHY, claimant, made, refused, run


@pytest.fixture
def doctor(ledger: Ledger, app: Celery, settings: Any) -> Callable[[], tuple[int, str]]:
    """Ask the doctor: its exit code, and what it has said by then."""
    settings.SILENCED_SYSTEM_CHECKS = [f"celery_idempotent.{name}" for name in ("W020", "W021", "W012")]

    def ask() -> tuple[int, str]:
        out = StringIO()
        try:
            call_command("idempotency", "doctor", stdout=out, no_color=True)
        except CommandError as error:
            return error.returncode, out.getvalue()
        return 0, out.getvalue()

    return ask


def test_a_project_that_is_well(doctor: Callable[[], tuple[int, str]]) -> None:
    """Each thing that was looked at is named, and the exit code is 0."""
    code, said = doctor()
    assert code == 0
    for about in ("ledger", "migrations", "connection", "in doubt: none", "stuck: none", "unfinished: none"):
        assert about in said
    assert "commanded" in said


def test_what_waits_for_somebody_ends_with_3(
    doctor: Callable[[], tuple[int, str]], ledger: Ledger, app: Celery
) -> None:
    """Messages that are late, messages that cannot be published, and doubts."""
    past = datetime.now(timezone.utc) - timedelta(minutes=6)
    row = OutboxMessage.objects.create(task_id="late", created_at=past, due_at=past)
    code, said = doctor()
    assert (code, "1 messages overdue in 'default'" in said) == (3, True)
    row.delete()
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    for name in ("one", "two"):
        values = {"task": "gone", "error": "this process knows no task 'gone'"}
        OutboxMessage.objects.create(task_id=name, created_at=past, due_at=soon, **values)
    code, said = doctor()
    assert code == 3
    assert "2 messages of gone in 'default', such as one, cannot be published: this process" in said
    assert "on time" not in said
    OutboxMessage.objects.update(due_at=past)
    assert "overdue" not in doctor()[1], "a reason is told once, also while no relay looks at them again"
    OutboxMessage.objects.all().delete()
    made(ledger, claimant(app), DOUBTFUL)
    assert doctor()[0] == 3


@pytest.mark.parametrize("place", ["redis://127.0.0.1:1/0", "memory://"])
def test_what_is_broken_ends_with_1(doctor: Callable[[], tuple[int, str]], settings: Any, place: str) -> None:
    """A ledger that does not answer, or one that every process has for itself."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": place}
    assert doctor()[0] == 1


def test_a_ledger_without_tables(memory_ledger: Any, app: Celery) -> None:
    """What works does, and the rest says why not."""
    entry = made(memory_ledger, claimant(app))
    assert "Done." in run("show", entry.key)
    assert "no tables" in str(refused("stats"))
    assert "only a whole key" in str(refused("cancel", "task-7", *WHY))
    run("sweep")


@contextmanager
def renamed(table: str, name: str) -> Iterator[None]:
    """Call a table of the default database otherwise for the with block."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {name}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {table}")


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (("purge",), LogicalEmail),
        (("forget", "ann@example.com", *WHY), Delivery),
        (("stats",), LogicalEmail),
    ],
)
def test_a_missing_table_is_named_with_the_cure(
    app: Celery, keep_ledger_in: Any, transactional_db: None, arguments: Any, model: Any
) -> None:
    """Whichever of them it is; and what an operator asks for is not told as if a task had been stopped."""
    keep_ledger_in("database")
    table = model._meta.db_table
    with renamed(table, f"{table}_gone"):
        told = str(refused(*arguments))
    assert f"has no table {table}: run `manage.py migrate" in told
    assert "task is tried again" not in told


def test_a_missing_outbox_is_named_by_the_doctor(
    doctor: Callable[[], tuple[int, str]], transactional_db: None
) -> None:
    """A ledger that is used without an outbox works until somebody enqueues."""
    table = OutboxMessage._meta.db_table
    with renamed(table, f"{table}_gone"):
        code, said = doctor()
    assert (code, f"has no table {table}: run `manage.py migrate" in said) == (1, True)


def test_a_migration_that_is_not_applied_is_wrong(doctor: Callable[[], tuple[int, str]]) -> None:
    """As after a new version was installed and not migrated: said, with the command; nothing is migrated."""
    recorded = MigrationRecorder(connection).migration_qs
    recorded.filter(app="celery_idempotent").delete()
    code, said = doctor()
    assert code == 1
    command = "manage.py migrate celery_idempotent --database=default"
    assert f"migrations: not all applied: run `{command}`" in said
    assert not recorded.filter(app="celery_idempotent").exists()
