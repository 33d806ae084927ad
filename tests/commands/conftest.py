"""What the tests of ``manage.py idempotency`` start with: a project, and a ledger of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import IdempotentEmailTask, checks, registry, retention, wiring
from celery_idempotent.core.ledger import Ledger
from tests.support.apps import current, see_only


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A project with one email task, and no tasks of other test modules."""
    app = Celery("commands", broker="redis://broker", set_as_current=False)

    @app.task(base=IdempotentEmailTask, name="commanded", shared=False, key_fields=("order_id", "to"))
    def commanded(order_id: Any, to: str) -> None: ...

    see_only(monkeypatch, "commanded", registry, retention, checks)
    with current(app):
        yield app


@pytest.fixture(params=["database", "redis"])
def ledger(request: Any, keep_ledger_in: Callable[[str], None], db: None, app: Celery) -> Ledger:
    """An empty ledger."""
    keep_ledger_in(request.param)
    return wiring.get_ledger()
