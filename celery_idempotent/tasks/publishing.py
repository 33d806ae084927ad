"""Publish a task with its note in the headers, or answer a duplicate without publishing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery import uuid
from celery.backends.base import DisabledBackend
from celery.contrib.django.task import DjangoTask
from celery.result import AsyncResult
from django.db import transaction

from ..email_types.call_keys import Identity, identify
from ..email_types.email_type import email_type_of
from ..email_types.job_note import HEADER, JobNote
from ..email_types.options import Args, Declaration, Kwargs
from ..exceptions import (
    DeliveryInDoubt,
    IdempotencyError,
    InProgress,
    InterventionRefused,
    PayloadMismatch,
    RecipientsRefused,
)
from ..execution.reporting import Report
from ..ledger.claims import differs
from ..ledger.decisions import Operator
from ..ledger.entry import Entry
from ..outbox.enqueue import Intention, record, taken_apart
from ..stores.factory import get_ledger

logger = logging.getLogger("celery_idempotent")

_CONTINUED = ("link", "link_error", "chain", "chord")
"""Options of a message that something hangs on: it has to reach a worker, which replays and goes on."""


if TYPE_CHECKING:

    class _DjangoTask(DjangoTask[..., Any]):
        """Generic to type checkers alone."""
else:
    _DjangoTask = DjangoTask


class KeyedTask(Declaration, _DjangoTask):
    """A task whose calls have keys. What a worker does with them is `tasks.IdempotentTask`'s."""

    abstract = True

    throws: tuple[type[Exception], ...] = (
        DeliveryInDoubt,
        InProgress,
        PayloadMismatch,
        RecipientsRefused,
    )
    """Logged by Celery without a traceback: they tell a state, not a bug."""

    def key_for(self, *args: object, **kwargs: object) -> str:
        """Return the idempotency key of a call with these arguments. Raises `KeyFieldError`."""
        return self._identify(args, kwargs).key

    def entry_for(self, *args: object, **kwargs: object) -> Entry | None:
        """Return what the ledger knows about a call with these arguments, or None.

        Raises `KeyFieldError`, `LedgerUnavailable`.
        """
        stored = get_ledger(self.app).store.get(self.key_for(*args, **kwargs))
        return stored.entry if stored else None

    def apply_async(
        self,
        args: Args = None,
        kwargs: Kwargs = None,
        task_id: str | None = None,
        *more: Any,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Publish as Celery does, with the key in the headers. Raises `KeyFieldError` before that.

        ``argsrepr`` and ``kwargsrepr`` carry the key and the key fields alone, on retries too.
        """
        headers = dict(options.pop("headers", None) or {})
        # Where the id is given somebody waits for it: a chain, a group, a retry, or the caller.
        answerable = self.dedupe_on_publish and task_id is None and not more
        task_id = task_id or uuid()
        note = JobNote.from_carried(headers, task_id)
        if note is None:
            note = JobNote.of(self._identify(args, kwargs), task_id)
            if answerable and self._is_for_now(options):
                first = self._done_before(note, args, kwargs)
                if first is not None:
                    return first
        headers[HEADER] = note.to_carry()
        options["argsrepr"] = note.argsrepr()
        options["kwargsrepr"] = note.kwargsrepr()
        publish: Callable[..., AsyncResult[Any]] = super().apply_async
        return publish(args, kwargs, task_id, *more, headers=headers, **options)

    def _is_for_now(self, options: Mapping[str, object]) -> bool:
        """Tell whether what is known now answers the call: nothing hangs on it, and it does not come later."""
        later = options.get("eta") or options.get("countdown")
        continued = any(options.get(name) for name in _CONTINUED)
        return not continued and not (later and email_type_of(self).policy(False).sends_again)

    def resend(self, *args: object, reason: str, actor: str, **kwargs: object) -> AsyncResult[Any]:
        """Send once more what is finished, as a new and audited generation with a Message-ID of its own.

        The task is published with these arguments, at once whatever transaction is open, and returned as
        `apply_async` does. The new sending is kept for it for one lease; after that, or if its message is lost,
        any new call may do it instead. Raises `KeyFieldError`, `InterventionRefused` where nothing is finished
        under this key or who or why is not said, `EntryChanged` if another new sending was asked for at the
        same time, `LedgerUnavailable`, and what publishing raises: everything is as it was then.
        """
        key = self.key_for(*args, **kwargs)
        ledger = get_ledger(self.app, eager=bool(self.app.conf.task_always_eager))
        operator = Operator(ledger, actor, reason)
        found = ledger.store.get(key)
        if found is None:
            raise InterventionRefused(f"{self.name}: nothing is known under {key}. To send it, call the task")
        task_id = uuid()
        opened = operator.resend(found.entry, task_id, float(self.lease))
        logger.info("%s: resend of %s as %s by %s", self.name, key, task_id, operator.actor)
        try:
            return self.apply_async(args, kwargs, task_id=task_id)
        except Exception:
            self._take_back(operator, opened, found.entry)
            raise

    def _take_back(self, operator: Operator, opened: Entry, found: Entry) -> None:
        try:
            operator.take_back(opened, found)
        except IdempotencyError as error:
            logger.warning("%s: the new sending of %s stays open: %s", self.name, found.key, error)

    def delay_on_commit(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        """Publish after the current transaction commits. Raises `KeyFieldError` now, not then."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(  # type: ignore[override]
        self, args: Args = None, kwargs: Kwargs = None, **options: Any
    ) -> None:
        """Publish after the current transaction commits. Raises `KeyFieldError` now, not then."""
        self._identify(args, kwargs)
        transaction.on_commit(lambda: self.apply_async(args, kwargs, **options))

    def enqueue(self, *args: object, **kwargs: object) -> AsyncResult[Any]:
        """Write the call into the outbox, in the caller's transaction; it is published after the commit.

        Raises `KeyFieldError`, `ArgumentsNotSerializable` and `UnsafeTransaction` before anything is written.
        """
        return self.enqueue_with(args, kwargs)

    def enqueue_with(
        self, args: Args = None, kwargs: Kwargs = None, *, using: str | None = None, **options: object
    ) -> AsyncResult[Any]:
        """Do as `enqueue` does, with options of ``apply_async``: ``queue``, ``countdown``, ``priority``, …

        ``using`` is the alias of the database whose transaction counts; by default the one that has one open.
        It has to be said where several have.
        """
        intention = Intention(self._identify(args, kwargs), args or (), kwargs or {}, options)
        return self.AsyncResult(record(self, [intention], using)[0])

    def enqueue_many(
        self, calls: Iterable[object], *, using: str | None = None, **options: object
    ) -> list[AsyncResult[Any]]:
        """Write many calls at once: all of them, or none if one is refused. Raises as `enqueue` does.

        A call is a tuple of arguments, a dict of keyword arguments, or a signature of this task with options of
        its own; ``options`` are those of all. After the commit this process publishes the first
        `outbox.AT_ONCE`; the others are due at once for the relay, which has to run somewhere.
        """
        intentions = [self._intention(call, options) for call in calls]
        return [self.AsyncResult(task_id) for task_id in record(self, intentions, using)]

    def _intention(self, call: object, options: Mapping[str, object]) -> Intention:
        args, kwargs, own = taken_apart(self, call)
        return Intention(self._identify(args, kwargs), args, kwargs, {**options, **own})

    def _done_before(self, note: JobNote, args: Args, kwargs: Kwargs) -> AsyncResult[Any] | None:
        """Return the result of the task that did this, or None where publishing is the way to an answer.

        Results expire long before the ledger forgets; the worker replays from the ledger then.
        """
        kind = email_type_of(self)
        claimant = note.claimant(kind, "", args, kwargs)
        try:
            entry = get_ledger(self.app).done(claimant, kind.policy(self._is_opaque()))
        except IdempotencyError as error:
            logger.warning("%s: published without a look at the ledger: %s", claimant.email_type, error)
            return None
        if entry is None:
            return None
        first = self.AsyncResult(entry.owner)
        if not self._is_readable(first):
            return None
        report = Report(self, claimant, entry)
        report.mismatch(differs(entry, claimant))
        report.not_published()
        return first

    def _is_readable(self, result: AsyncResult[Any]) -> bool:
        """Tell whether who asks for ``result`` gets it, or would get nothing from any other either."""
        if self.ignore_result or isinstance(self.backend, DisabledBackend):
            result.ignored = bool(self.ignore_result)
            return True
        try:
            return bool(result.successful())
        except Exception as error:
            logger.warning("%s: published, as the result backend does not answer: %s", self.name, error)
            return False

    def _identify(self, args: Args, kwargs: Kwargs) -> Identity:
        return identify(email_type_of(self), args, kwargs)

    def _is_opaque(self) -> bool:
        return True
