"""The note that travels with a job: the key of its call, so that a retry keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ledger.policy import Claimant
from .call_keys import Identity
from .options import email_type

HEADER = "celery_idempotent"
"""Name under which the note travels: a header of Celery's messages, an item of other queues' ``meta``."""


def own_note(carried: Any, job_id: str) -> dict[str, Any] | None:
    """Return the note in what a job ``carried`` if it was written for this very job: such things get copied."""
    note = carried.get(HEADER) if isinstance(carried, Mapping) else None
    if not isinstance(note, dict) or note.get("id") != job_id:
        return None
    whole = all(isinstance(note.get(name), str) for name in ("key", "fingerprint", "label"))
    return note if whole and isinstance(note.get("waits", 0), int) else None


def as_note(identity: Identity, task_id: str) -> dict[str, Any]:
    """Return what travels with the job ``task_id``."""
    return {
        "id": task_id,
        "key": identity.key,
        "fingerprint": identity.fingerprint,
        "label": identity.label,
    }


def claimant_of(task: Any, note: dict[str, Any], worker: str, args: Any = (), kwargs: Any = None) -> Claimant:
    """Return who asks the ledger, from the note that came with the job, and the job's own arguments."""
    return Claimant(
        key=note["key"],
        email_type=email_type(task),
        task_id=note["id"],
        worker=worker,
        label=note["label"],
        fingerprint=note["fingerprint"],
        args=tuple(args or ())[task.filled_in :],
        kwargs=dict(kwargs or {}),
    )


def argsrepr(note: dict[str, Any]) -> str:
    """Return what Celery shows in place of the arguments: the key."""
    return f"({note['key']!r},)"


def kwargsrepr(note: dict[str, Any]) -> str:
    """Return what Celery shows in place of the keyword arguments: the key fields, addresses masked."""
    return f"{{{note['label']}}}"
