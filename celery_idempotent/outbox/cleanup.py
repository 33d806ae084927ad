"""Remove the outbox row of a message whose email is finished, or that nobody wants any more."""

from __future__ import annotations

from typing import Any

from celery.signals import task_failure, task_revoked
from django.db import connections

from ..email_types.job_note import JobNote
from ..exceptions import PayloadMismatch
from ..ledger.entry import Entry
from ..ledger.status import FINISHED
from ..signals import duplicate_suppressed, email_failed, email_sent
from .enqueue import forget
from .publish import OUTBOX


def _forget_message(sender: object, entry: Entry, task_id: str, **_: object) -> None:
    """Remove the outbox's row of the message that this worker was given, if it came through the outbox.

    Where this fails, or the worker dies before it, the relay finds the row.
    """
    request = getattr(sender, "request", None)
    if entry.status in FINISHED:
        _forget(getattr(request, "headers", None), task_id)


def _forget(headers: object, task_id: str) -> None:
    note = JobNote.from_carried(headers, task_id)
    if note is not None and OUTBOX in note.more:
        forget(str(note.more[OUTBOX]), task_id)


for _signal in (email_sent, email_failed, duplicate_suppressed):
    _signal.connect(_forget_message)


@task_failure.connect(weak=False)
def _forget_refused(sender: Any, task_id: str, exception: BaseException, **_: object) -> None:
    """Remove the row of a message that was refused for its content: it would be as often as it came again.

    None of our own signals tells of it: to the entry, nothing has happened.
    """
    if isinstance(exception, PayloadMismatch):
        _forget(sender.request.headers, task_id)


@task_revoked.connect(weak=False)
def forget_revoked(request: Any, **_: object) -> None:
    """Remove the row of a message that was revoked, or that has expired: nobody wants it any more."""
    try:
        _forget(getattr(request, "headers", None) or getattr(request, "request_dict", None), request.id)
    finally:
        connections.close_all()  # the worker's main process has no business with the database
