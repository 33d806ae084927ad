"""Signals: what a worker should know and tidy up, and messages of the outbox that are done."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import task_failure, task_revoked, worker_process_shutdown, worker_ready, worker_shutdown
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from .core.entry import Entry
from .core.errors import LedgerUnavailable, PayloadMismatch
from .core.status import FINISHED
from .dispatch import OUTBOX
from .identity import own_note
from .outbox import forget
from .signals import duplicate_suppressed, email_failed, email_sent
from .wiring import get_ledger

logger = logging.getLogger("celery_idempotent")


@worker_ready.connect(weak=False)
def examine_ledger(sender: Any, **_: Any) -> None:
    """Log what makes the ledger unfit, and go on: it may be mended while tasks wait."""
    try:
        problems = get_ledger(sender.app).store.problems()
    except LedgerUnavailable as error:
        problems = [f"{error}. Tasks wait until it answers"]
    except ImproperlyConfigured as error:
        problems = [f"{error}. Tasks fail until it is mended"]
    for problem in problems:
        logger.error("the ledger: %s", problem)


@worker_process_shutdown.connect(weak=False)
@worker_shutdown.connect(weak=False)
def say_goodbye(**_: Any) -> None:
    """Close the SMTP connections that this process keeps open."""
    from .mail.connections import kept

    kept.close()


def forget_message(sender: Any, entry: Entry, task_id: str, **_: Any) -> None:
    """Remove the outbox's row of the message that this worker was given, if it came through the outbox.

    Where this fails, or the worker dies before it, the relay finds the row.
    """
    request = getattr(sender, "request", None)
    if entry.status in FINISHED:
        _forget(getattr(request, "headers", None), task_id)


def _forget(headers: Any, task_id: str) -> None:
    note = own_note(headers, task_id)
    if note is not None and OUTBOX in note:
        forget(note[OUTBOX], task_id)


for _signal in (email_sent, email_failed, duplicate_suppressed):
    _signal.connect(forget_message)


@task_failure.connect(weak=False)
def forget_refused(sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
    """Remove the row of a message that was refused for its content: it would be as often as it came again.

    None of our own signals tells of it: to the entry, nothing has happened.
    """
    if isinstance(exception, PayloadMismatch):
        _forget(sender.request.headers, task_id)


@task_revoked.connect(weak=False)
def forget_revoked(request: Any, **_: Any) -> None:
    """Remove the row of a message that was revoked, or that has expired: nobody wants it any more."""
    try:
        _forget(getattr(request, "headers", None) or getattr(request, "request_dict", None), request.id)
    finally:
        connections.close_all()  # the worker's main process has no business with the database
