"""A project with one task, for what its configuration makes of the retention, and for the purge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from celery_idempotent.operations import purge
from tests.support.apps import current, see_only


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The current Celery app, on Redis, without the tasks that other test modules share."""
    see_only(monkeypatch, "kept", purge)
    app = Celery("retention", broker="redis://broker", set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 7200}
    with current(app):
        yield app
