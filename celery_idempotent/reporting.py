"""Every outcome, told four ways: signal, Celery event, one log line, and ``meta`` of the task's result."""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

from . import signals
from .core.entry import Entry
from .core.outcomes import Asker
from .core.status import Status

logger = logging.getLogger("celery_idempotent")


class Report:
    """Reports what became of ``entry`` in a run of ``task``. Never raises: reporting changes no outcome."""

    def __init__(self, task: Any, asker: Asker, entry: Entry) -> None:
        self.task = task
        self.asker = asker
        self.entry = entry

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
        """A duplicate was answered where it was published. The task's request, if any, is another run's."""
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

    def _tell(self, outcome: str, level: int) -> None:
        self._log(outcome, level)
        # django-celery-results stores `request.meta`; its own keys (status, result, …) are not to be touched.
        note = {"key": self.entry.key, "outcome": outcome, "first_task_id": self.entry.owner}
        request = self.task.request
        request.update(meta={**(getattr(request, "meta", None) or {}), "celery_idempotent": note})

    def _log(self, outcome: str, level: int) -> None:
        entry = self.entry
        logger.log(
            level,
            "%s: %s (%s) key=%s task=%s first=%s generation=%d attempts=%d",
            entry.email_type,
            outcome,
            self.asker.label,
            entry.key,
            self.asker.task_id,
            entry.owner,
            entry.generation,
            entry.attempts,
        )

    def _signal(self, signal: Signal, **extra: Any) -> None:
        signal.send_robust(sender=self.task, entry=self.entry, task_id=self.asker.task_id, **extra)

    def _event(self, kind: str) -> None:
        request = self.task.request
        if request.called_directly or request.is_eager:
            return
        try:
            self.task.send_event(
                kind, retry=False, key=self.entry.key, first_task_id=self.entry.owner, name=self.task.name
            )
        except Exception:
            logger.warning("the event %s could not be sent", kind, exc_info=True)
