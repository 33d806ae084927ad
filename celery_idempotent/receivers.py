"""Celery's worker signals: what has to be in place before the first task runs."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_process_init
from django.db import connections

from .wiring import OWN_ALIAS


@worker_process_init.connect(weak=False)
def forget_inherited_connection(**_: Any) -> None:
    """Drop the ledger's connection in a forked pool process: the socket belongs to the parent."""
    if OWN_ALIAS in connections.settings:
        connections[OWN_ALIAS].connection = None
