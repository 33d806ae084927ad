"""Settings of a project with django-rq."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "django_rq"]
RQ_QUEUES = {"default": {"URL": os.environ.get("TEST_BROKER", "redis://127.0.0.1:1/0")}}
RQ = {"JOB_CLASS": "celery_idempotent.contrib.rq.IdempotentJob"}
