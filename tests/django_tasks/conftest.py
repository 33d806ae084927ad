"""Tasks of one process, on each framework that is there; and projects whose tasks run in real workers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from tests.django_tasks import jobs as functions
from tests.django_tasks.site import Site, db_workers, opened, rq_workers
from tests.support.mailserver import ScriptedSMTP

FRAMEWORKS = [name for name in ("django.tasks", "django_tasks") if find_spec(name)]


@pytest.fixture(params=FRAMEWORKS)
def framework(request: Any, settings: Any) -> str:
    """The framework's module name; its immediate backend is the default one."""
    name = str(request.param)
    settings.TASKS = {
        "default": {"BACKEND": f"{name}.backends.immediate.ImmediateBackend", "QUEUES": ["default", "mails"]},
        "dummy": {"BACKEND": f"{name}.backends.dummy.DummyBackend"},
    }
    return name


@pytest.fixture
def jobs(framework: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `jobs` with each function made a task."""
    task = import_module(framework).task
    for name in functions.TASKS:
        made = task(takes_context=name in functions.CONTEXT)(getattr(functions, name))
        monkeypatch.setattr(functions, name, made)
    functions.bodies.clear()
    functions.inside.clear()
    return functions


@pytest.fixture
def server(memory_ledger: Any, tracked: None, server: ScriptedSMTP) -> ScriptedSMTP:
    """A mail server, and an empty ledger."""
    return server


@pytest.fixture(scope="module")
def site(tmp_path_factory: Any) -> Iterator[Site]:
    """A project with two workers of each kind."""
    with opened(tmp_path_factory.mktemp("site")) as site:
        db_workers(site)
        rq_workers(site)
        yield site
