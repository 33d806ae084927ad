"""What the tests of ``manage.py idempotency`` start with: a project, and a ledger of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.checks import tasks
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.operations import purge
from celery_idempotent.stores import factory
from celery_idempotent.tasks import registry
from tests.support.apps import current, see_only


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A project with one email task, and no tasks of other test modules."""
    app = Celery("commands", broker="redis://broker", set_as_current=False)

    @app.task(base=IdempotentEmailTask, name="commanded", shared=False, key_fields=("order_id", "to"))
    def commanded(order_id: Any, to: str) -> None: ...

    see_only(monkeypatch, "commanded", registry, purge, tasks)
    with current(app):
        yield app


@pytest.fixture(params=["database", "redis"])
def ledger(request: Any, keep_ledger_in: Callable[[str], None], db: None, app: Celery) -> Ledger:
    """An empty ledger."""
    keep_ledger_in(request.param)
    return factory.get_ledger()
