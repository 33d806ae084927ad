"""Report an outcome by signal, log line, event of the queue, and note beside the job's result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from django.dispatch import Signal

from .. import signals
from ..ledger.entry import Entry
from ..ledger.policy import Claimant
from ..ledger.status import Status

logger = logging.getLogger("celery_idempotent")


class Channel(Protocol):
    """Where a queue shows people what became of a job."""

    def note(self, outcome: Mapping[str, object]) -> None:
        """Keep ``outcome`` beside the job's result."""

    def event(self, kind: str, entry: Entry) -> None:
        """Send an event of the queue's own."""


class Report:
    """Reports what became of ``entry``. Never raises: reporting changes no outcome.

    ``task`` is the task or function: the signals' sender, and whose options count.
    """

    def __init__(self, task: Any, claimant: Claimant, entry: Entry, channel: Channel | None = None) -> None:
        self.task = task
        self.claimant = claimant
        self.entry = entry
        self.channel = channel

    def claimed(self) -> None:
        """A run holds the claim."""
        self._signal(signals.email_claimed)

    def sent(self) -> None:
        """The task succeeded."""
        self._tell("sent", logging.INFO)
        self._event("task-email-sent")
        self._signal(signals.email_sent)

    def duplicate(self) -> None:
        """A duplicate was answered."""
        self._tell("duplicate", logging.INFO)
        self._event("task-email-duplicate")
        self._signal(signals.duplicate_suppressed, first_task_id=self.entry.owner)

    def not_published(self) -> None:
        """A duplicate was answered where it was published: nothing to note, there is no job."""
        self._log("duplicate, not published", logging.INFO)
        self._signal(signals.duplicate_suppressed, first_task_id=self.entry.owner)

    def held(self) -> None:
        """A claim found an entry in doubt and was refused."""
        self._tell("held in doubt", logging.WARNING)

    def lost(self, owner: str | None) -> None:
        """A run found that another one had taken over."""
        self._tell("claim lost", logging.WARNING)
        self._signal(signals.claim_lost, owner=owner)

    def ended(self, error: BaseException) -> None:
        """The attempt ended without success: in doubt, released or failed."""
        if self.entry.status is Status.IN_DOUBT:
            self._tell("in doubt", logging.ERROR)
            self._event("task-email-in-doubt")
            self._signal(signals.email_in_doubt, exception=error)
        elif self.entry.status is Status.FAILED:
            self._tell("failed", logging.WARNING)
            self._signal(signals.email_failed, exception=error)
        else:
            self._tell("released", logging.INFO)
            self._signal(signals.email_released, exception=error)

    def mismatch(self, differs: bool) -> None:
        """The key came back, with other content if it ``differs``."""
        if differs and self.task.on_mismatch == "warn":
            logger.warning(
                "%s: %s was asked for with other content than before; the first content counts",
                self.entry.email_type,
                self.entry.key,
            )

    def _tell(self, outcome: str, level: int) -> None:
        self._log(outcome, level)
        if self.channel is None:
            return
        try:
            self.channel.note(
                {"key": self.entry.key, "outcome": outcome, "first_task_id": self.entry.owner},
            )
        except Exception:
            logger.warning("the outcome could not be noted with the job", exc_info=True)

    def _log(self, outcome: str, level: int) -> None:
        entry = self.entry
        logger.log(
            level,
            "%s: %s (%s) key=%s task=%s first=%s generation=%d attempts=%d",
            entry.email_type,
            outcome,
            self.claimant.label,
            entry.key,
            self.claimant.task_id,
            entry.owner,
            entry.generation,
            entry.attempts,
        )

    def _signal(self, signal: Signal, **extra: Any) -> None:
        sender = getattr(self.task, "sender", self.task)
        signal.send_robust(sender=sender, entry=self.entry, task_id=self.claimant.task_id, **extra)

    def _event(self, kind: str) -> None:
        if self.channel is None:
            return
        try:
            self.channel.event(kind, self.entry)
        except Exception:
            logger.warning("the event %s could not be sent", kind, exc_info=True)


def tell(task: Any, entry: Entry, by: str, error: BaseException) -> None:
    """Report what ``entry`` has become by something else than a run of ``task``, which may be unknown (None).

    ``by`` is who did it, ``error`` why, where it is not SENT.
    """
    report = Report(task, Claimant(entry.key, entry.email_type, entry.owner, by, entry.label), entry)
    if entry.status is Status.SENT:
        report.sent()
    else:
        report.ended(error)
