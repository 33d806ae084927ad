"""Settings of the project whose tasks run in real workers: every backend, and a Celery app beside them."""

import os
from importlib.util import find_spec

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

_FRAMEWORK = "django.tasks" if find_spec("django.tasks") else "django_tasks"
INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks", "django_tasks_db", "django_rq"]
TASKS = {
    "default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["default", "mails"]},
    "rq": {"BACKEND": "django_tasks_rq.RQBackend", "QUEUES": ["default", "mails", "at-once"]},
    "immediate": {"BACKEND": f"{_FRAMEWORK}.backends.immediate.ImmediateBackend"},
}
_PLACE = {"URL": os.environ.get("TEST_BROKER", "redis://127.0.0.1:1/0")}
RQ_QUEUES = {"default": _PLACE, "mails": _PLACE, "at-once": {**_PLACE, "ASYNC": False}}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"all": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["all"], "level": "INFO"},
}
