"""Celery's current app, for a test: what finds tasks by it finds no others than the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, _state


@contextmanager
def current(app: Celery | None = None) -> Iterator[Celery | None]:
    """``app`` is the current one until the end of the with block; without it, whichever the block makes so."""
    before = _state._tls.current_app
    if app is not None:
        _state._set_current_app(app)
    try:
        yield app
    finally:
        _state._set_current_app(before)


def see_only(monkeypatch: pytest.MonkeyPatch, task: str, *modules: Any) -> None:
    """Have ``modules`` see the task of this name alone, and no functions: other tests share theirs."""
    for module in modules:
        seen = module.tasks
        monkeypatch.setattr(
            module, "tasks", lambda app=None, seen=seen: (one for one in seen(app) if one.name == task)
        )
        monkeypatch.setattr(module, "functions", list)
