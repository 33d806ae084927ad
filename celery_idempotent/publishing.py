"""How a task is declared and published: its options, its key, and the note about it in the headers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

from celery import uuid
from celery.backends.base import DisabledBackend
from celery.contrib.django.task import DjangoTask
from django.db import transaction

from .core.changes import differs
from .core.entry import Entry
from .core.errors import (
    ClaimLost,
    DeliveryInDoubt,
    EntryUnreadable,
    IdempotencyError,
    InProgress,
    LedgerUnavailable,
    PayloadMismatch,
    RecipientsRefused,
    UnsafeTransaction,
)
from .core.outcomes import Asker, Verifier
from .options import CallKeys, Identity, email_type, policy
from .reporting import Report
from .wiring import get_ledger

logger = logging.getLogger("celery_idempotent")

HEADER = "celery_idempotent"
"""Message header that carries the key, so that retries and redeliveries keep it."""
_CONTINUED = ("link", "link_error", "chain", "chord")
"""Options of a message that something hangs on: it has to reach a worker, which replays and goes on."""


class KeyedTask(DjangoTask):
    """A task whose calls have keys. What a worker does with them is `tasks.IdempotentTask`'s."""

    abstract = True

    key_fields: ClassVar[tuple[str, ...]] = ()
    """Parameters of ``run`` that identify the event; dotted paths reach into mappings and attributes."""
    key_function: ClassVar[Callable[..., Any] | None] = None
    """Instead of ``key_fields``: called with the task's arguments, returns what identifies the event."""
    email_type: ClassVar[str | None] = None
    """Namespace of the keys. Default: the task's name; set it so that renaming the task keeps its keys."""
    window: ClassVar[timedelta | None] = None
    """A new send is allowed this long after the last acceptance. None: once, while the ledger remembers."""
    window_mode: ClassVar[str] = "sliding"
    """``"sliding"``, or ``"fixed"``: buckets of the event's own time, see ``event_time_field``."""
    event_time_field: ClassVar[str | None] = None
    """Parameter that holds the event's time (an aware datetime, or ISO 8601), for fixed windows."""
    lease: ClassVar[float] = 60.0
    """Seconds after which another task may take over a claim that shows no sign of life."""
    send_timeout: ClassVar[float] = 60.0
    """Seconds a hand-over may take; for opaque tasks, the whole body."""
    in_doubt: ClassVar[str | Verifier] = "hold"
    """After a lost reply: ``"hold"``, ``"resend"``, or a verifier ``callable(entry) -> Verdict``."""
    on_conflict: ClassVar[str] = "retry"
    """While another task works on the key: ``"retry"`` (spends no retries), ``"skip"`` or ``"raise"``."""
    on_mismatch: ClassVar[str] = "warn"
    """Same key, other arguments: ``"warn"``, ``"raise"`` or ``"ignore"``."""
    fingerprint_fields: ClassVar[tuple[str, ...] | None] = None
    """Which parameters count as content. Default: all that are not key fields."""
    in_doubt_for: ClassVar[tuple[type[Exception], ...]] = ()
    """Exceptions of an opaque body after which the outcome is unknown."""
    dedupe_on_publish: ClassVar[bool] = False
    """Answer a key that is sent already with the first task's result, without publishing a message."""
    dont_autoretry_for: ClassVar[tuple[type[Exception], ...]] = (
        ClaimLost,
        DeliveryInDoubt,
        EntryUnreadable,
        LedgerUnavailable,
        PayloadMismatch,
        RecipientsRefused,
        UnsafeTransaction,
    )
    """Never retried by Celery: the base class has its own way with each of them."""

    throws: ClassVar[tuple[type[Exception], ...]] = (
        DeliveryInDoubt,
        InProgress,
        PayloadMismatch,
        RecipientsRefused,
    )
    """Logged by Celery without a traceback: they tell a state, not a bug."""

    def key_for(self, *args: Any, **kwargs: Any) -> str:
        """Return the idempotency key of a call with these arguments. Raises `KeyFieldError`."""
        return self._identify(args, kwargs).key

    def entry_for(self, *args: Any, **kwargs: Any) -> Entry | None:
        """Return what the ledger knows about a call with these arguments, or None.

        Raises `KeyFieldError`, `LedgerUnavailable`.
        """
        stored = get_ledger(self.app).store.get(self.key_for(*args, **kwargs))
        return stored.entry if stored else None

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, *more: Any, **options: Any
    ) -> Any:
        """Publish as Celery does, with the key in the headers. Raises `KeyFieldError` before that.

        ``argsrepr`` and ``kwargsrepr`` carry the key and the key fields alone, on retries too.
        """
        headers = dict(options.pop("headers", None) or {})
        # Where the id is given somebody waits for it: a chain, a group, a retry, or the caller.
        answerable = self.dedupe_on_publish and task_id is None and not more
        task_id = task_id or uuid()
        note = self._own_note(headers, task_id)
        if note is None:
            note = as_note(self._identify(args, kwargs), task_id)
            later = self.window is not None and (options.get("eta") or options.get("countdown"))
            if answerable and not later and not any(options.get(name) for name in _CONTINUED):
                first = self._done_before(note)
                if first is not None:
                    return first
        headers[HEADER] = note
        options["argsrepr"] = argsrepr(note)
        options["kwargsrepr"] = kwargsrepr(note)
        return super().apply_async(args, kwargs, task_id, *more, headers=headers, **options)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Publish after the current transaction commits. Raises `KeyFieldError` now, not then."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, args: Any = None, kwargs: Any = None, **options: Any) -> None:
        """Publish after the current transaction commits. Raises `KeyFieldError` now, not then."""
        self._identify(args, kwargs)
        transaction.on_commit(lambda: self.apply_async(args, kwargs, **options))

    def _done_before(self, note: dict[str, Any]) -> Any:
        """Return the result of the task that did this, or None where publishing is the way to an answer.

        Results expire long before the ledger forgets; the worker replays from the ledger then.
        """
        asker = self._asker_of(note)
        try:
            entry = get_ledger(self.app).done(asker, policy(self, self._is_opaque()))
        except IdempotencyError as error:
            logger.warning("%s: published without a look at the ledger: %s", asker.email_type, error)
            return None
        if entry is None:
            return None
        first = self.AsyncResult(entry.owner)
        if not self._is_readable(first):
            return None
        self._warn_of_mismatch(entry, differs(entry, asker))
        Report(self, asker, entry).not_published()
        return first

    def _is_readable(self, result: Any) -> bool:
        """Tell whether who asks for ``result`` gets it, or would get nothing from any other either."""
        if self.ignore_result or isinstance(self.backend, DisabledBackend):
            result.ignored = bool(self.ignore_result)
            return True
        try:
            return bool(result.successful())
        except Exception as error:
            logger.warning("%s: published, as the result backend does not answer: %s", self.name, error)
            return False

    def _own_note(self, headers: Any, task_id: str) -> dict[str, Any] | None:
        """Return the note in ``headers`` if it was written for this very task: headers get copied around."""
        note = (headers or {}).get(HEADER)
        return note if isinstance(note, dict) and note.get("id") == task_id else None

    def _identify(self, args: Any, kwargs: Any) -> Identity:
        return CallKeys(self).identify(args, kwargs)

    def _asker_of(self, note: dict[str, Any]) -> Asker:
        return Asker(
            key=note["key"],
            email_type=email_type(self),
            task_id=note["id"],
            worker=str(self.request.hostname or ""),
            label=note["label"],
            fingerprint=note["fingerprint"],
        )

    def _is_opaque(self) -> bool:
        return True

    def _warn_of_mismatch(self, entry: Entry, mismatch: bool) -> None:
        if mismatch and self.on_mismatch == "warn":
            logger.warning(
                "%s: %s was asked for with other content than before; the first content counts",
                entry.email_type,
                entry.key,
            )


def as_note(identity: Identity, task_id: str) -> dict[str, Any]:
    """Return what travels in the headers of the message of ``task_id``."""
    return {
        "id": task_id,
        "key": identity.key,
        "fingerprint": identity.fingerprint,
        "label": identity.label,
    }


def argsrepr(note: dict[str, Any]) -> str:
    """Return what Celery shows in place of the arguments: the key."""
    return f"({note['key']!r},)"


def kwargsrepr(note: dict[str, Any]) -> str:
    """Return what Celery shows in place of the keyword arguments: the key fields, addresses masked."""
    return f"{{{note['label']}}}"
