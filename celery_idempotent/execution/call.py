"""One delivery of a job as its queue sees it: what an adapter tells `claim` and `run_body`.

A queue's adapter describes the call by a `Call`, and translates what leaves those two: a result, an error of
the body's own, or `Snooze`.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from celery import Celery

from ..email_types.job_note import Counter
from ..email_types.options import Declaration
from ..ledger.entry import Entry
from ..ledger.policy import Claimant
from .reporting import Report

logger = logging.getLogger("celery_idempotent")

LONGEST_WAIT = 900.0
"""Seconds; half of the 30 minutes after which RabbitMQ gives up a consumer that does not acknowledge."""
_LONGEST_BACKOFF = 300.0


class Snooze(Exception):
    """Snooze: run this job again in ``wait`` seconds without using up a retry.

    ``counts`` is the note's counter to increment.
    """

    def __init__(self, wait: float, cause: Exception, counts: Counter = "waits") -> None:
        super().__init__(f"comes back in {wait:.1f} s: {cause}")
        self.wait = wait
        self.cause = cause
        self.counts = counts


class TakenOver(Snooze):
    """Raised when a redelivery of this very call is at work in its place, and will report the outcome."""


class AfterBody(Enum):
    """What a queue does after a body raised."""

    GIVES_UP = "gives up"
    RUNS_AGAIN = "runs again"
    IS_DONE = "is done"
    """The body ended on purpose without a result."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a body's run ended in the eyes of its queue."""

    then: AfterBody
    cause: Exception
    retry_in: float | None = None
    """Seconds after which the queue runs it again, if it knows."""


class Call(ABC):
    """One delivery of one job, as its queue sees it."""

    task: Declaration
    """The task or function: the options, and the signals' sender."""
    claimant: Claimant
    opaque: bool = False
    """The body's sends cannot be seen by the ledger."""
    local: bool = False
    """Nobody would make this call again: errors go to the caller."""
    eager: bool = False
    """It runs inside its caller's transaction."""
    waits: int = 0
    """How often it has come back already, because somebody else was at work or the ledger did not answer."""
    deferrals: int = 0
    """How often it has come back because the mail server did not take the mail yet."""
    interrupts: tuple[type[BaseException], ...] = ()
    """Raised into the body by the queue, at any point: a time limit."""
    app: Celery | None = None

    @abstractmethod
    def ending(self, error: Exception) -> Ending:
        """Tell what the queue does after the body raised ``error``."""

    def raise_in_body(self, error: Exception) -> NoReturn:
        """Raise what leaves the body if ``error`` is raised in it: its queue may have put retries around it."""
        raise error

    def retries_itself(self, error: Exception) -> bool:
        """Tell whether its queue or its body has retries for ``error``, or nobody could bring it back later."""
        return True

    @abstractmethod
    def note(self, outcome: Mapping[str, object]) -> None:
        """Keep ``outcome`` beside the job's result, for people to see."""

    def event(self, kind: str, entry: Entry) -> None:
        """Send an event, where the queue has such."""
        return

    def report(self, entry: Entry) -> Report:
        """Return what tells the outcome."""
        return Report(self.task, self.claimant, entry, self)

    def backoff(self) -> float:
        """Return how many seconds to wait before the next try, from how often it has waited."""
        return float(min(2.0 ** min(self.waits, 16), _LONGEST_BACKOFF))

    def snooze(self, wait: float, error: Exception, counts: Counter = "waits") -> NoReturn:
        """Raise `Snooze`, or ``error`` itself where nobody would."""
        if self.local:
            raise error
        wait = min(wait * random.uniform(1.0, 1.1) + 0.05, LONGEST_WAIT)
        logger.info("%s[%s] comes back in %.1f s: %s", self.task.name, self.claimant.task_id, wait, error)
        raise Snooze(wait, error, counts) from error
