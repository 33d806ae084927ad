"""The Celery app, configured by the ``CELERY_`` settings."""

import os

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

TRANSPORT_ALIASES["filesystem"] = "shop.broker:Transport"
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["shop"])
