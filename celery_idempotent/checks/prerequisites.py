"""Prerequisites of system checks: tasks that are imported, and settings that can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

from django.apps import AppConfig
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from ..conf import conf
from ..tasks.registry import import_tasks

_Check = Callable[..., list[CheckMessage]]


def knowing_tasks(check: _Check) -> _Check:
    """Import the tasks before ``check``: a Celery app imports discovered tasks in workers alone."""

    @wraps(check)
    def knowing(app_configs: Sequence[AppConfig] | None, **options: object) -> list[CheckMessage]:
        import_tasks()
        return check(app_configs, **options)

    return knowing


def usable(*names: str) -> bool:
    """Tell whether these settings can be used. Where they cannot, E002 says so."""
    try:
        return all(getattr(conf, name) is not None for name in names)
    except ImproperlyConfigured:
        return False
