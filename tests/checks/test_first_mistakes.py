"""What somebody gets wrong on the first day: ``manage.py check`` or the call says where, and the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection, connections

from celery_idempotent import IdempotentEmailTask, KeyFieldError, LedgerUnavailable
from celery_idempotent.management.commands.idempotency import Command
from celery_idempotent.stores.database.connection import translated
from celery_idempotent.tasks import registry

TASKS = """
from celery import current_app
from celery_idempotent import IdempotentEmailTask

@current_app.task(base=IdempotentEmailTask, name="first.confirm", shared=False, key_fields=("order", "too"))
def confirm(order, to): ...
"""


def found() -> dict[str, str]:
    """Return what ``manage.py check`` says of this package: ids and messages."""
    return {str(m.id).removeprefix("celery_idempotent."): m.msg for m in run_checks(tags=["celery_idempotent"])}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A Celery app as its own guide for Django has it, and what its ``tasks.py`` holds."""
    from celery import _state

    before = _state._tls.current_app
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.settings")
    package = tmp_path / "first_orders"
    package.mkdir()
    (package / "__init__.py").touch()

    def write(text: str) -> None:
        (package / "tasks.py").write_text(text)
        Celery("first", set_as_current=True).autodiscover_tasks(["first_orders"])

    yield write
    _state._tls.current_app = before
    for name in ("first_orders", "first_orders.tasks"):
        sys.modules.pop(name, None)


def test_check_finds_tasks_that_nothing_has_imported_yet(project: Any) -> None:
    """``autodiscover_tasks`` is lazy: in ``manage.py check`` no task is known until somebody looks."""
    project(TASKS)
    assert "task first.confirm: key_fields names 'too'" in found()["E010"]
    assert "W015" not in found()


def test_w015_tasks_that_cannot_be_imported(project: Any) -> None:
    """Told, with the reason; no other command that runs the checks is stopped by it."""
    project("import nothing_of_that_name")
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in found()["W015"]
    with pytest.raises(CommandError, match=r"tasks cannot be imported.*nothing_of_that_name"):
        call_command("idempotency", "purge")


@pytest.mark.django_db
def test_the_doctor_tells_errors_of_the_checks(project: Any) -> None:
    """Django would end any other command before it begins."""
    project(TASKS)
    out = StringIO()
    command = Command(stdout=out)
    options = vars(command.create_parser("manage.py", "idempotency").parse_args(["doctor"]))
    with pytest.raises(CommandError, match="something has to be mended"):
        command.execute(**options)
    assert "wrong  check E010: task first.confirm" in out.getvalue()


def test_key_fields_that_are_a_string() -> None:
    """Not taken for its letters."""
    app = Celery("strings", set_as_current=False)

    @app.task(base=IdempotentEmailTask, name="strings", shared=False, key_fields="order")
    def task(order: int) -> None: ...

    with pytest.raises(KeyFieldError, match=r"key_fields is the string 'order'; make it a tuple: \('order',\)"):
        task.delay(7)


def test_a_key_field_that_is_no_parameter() -> None:
    """The error names those that the call has."""
    app = Celery("typos", set_as_current=False)

    @app.task(base=IdempotentEmailTask, name="typos", shared=False, key_fields=("ordre",))
    def task(order: int, to: str) -> None: ...

    with pytest.raises(KeyFieldError, match=r"no 'ordre' in its arguments \(order, to\)"):
        task.delay(7, "ann@example.com")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("alias", "command"),
    [("default", "run `manage.py migrate`"), ("elsewhere", "run `manage.py migrate --database=elsewhere`")],
)
def test_the_cure_for_a_missing_table_can_be_typed(alias: str, command: str) -> None:
    """With the alias of the database, where it needs one."""
    connections.settings["elsewhere"] = connections.settings["default"]
    connections["elsewhere"] = connection
    try:
        with pytest.raises(LedgerUnavailable) as error, translated(alias):
            raise _missing_table()
    finally:
        del connections["elsewhere"], connections.settings["elsewhere"]
    assert str(error.value).endswith(command)


def _missing_table() -> Exception:
    from django.db import OperationalError

    return OperationalError("no such table: celery_idempotent_logicalemail")


def test_the_import_runs_no_checks(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's would come back here without end."""
    project(TASKS)
    calls: list[object] = []
    monkeypatch.setattr("django.core.checks.run_checks", lambda *a, **k: calls.append(a))
    assert registry.import_tasks() is None
    assert calls == []
