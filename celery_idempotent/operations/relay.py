"""Relay: publish what waits in the outbox, and remove rows whose email has ended.

Several may run at once, on any hosts. One that is killed loses nothing: what it had in hand is due again soon.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from threading import Event

from celery import Celery
from celery.app import app_or_default
from django.db import Error as DatabaseError
from django.db import close_old_connections

from ..conf import conf
from ..email_types.email_type import email_type_of
from ..exceptions import EntryUnreadable, LedgerUnavailable
from ..ledger.doubts import is_left_to_rules
from ..ledger.generations import window_has_passed
from ..ledger.policy import Claimant, Policy
from ..ledger.status import FINISHED, Status
from ..ledger.store import Stored
from ..models import OutboxMessage
from ..outbox import rows as store
from ..outbox.payload import Unsendable
from ..outbox.publish import BrokerDown, send, task_of
from ..stores.factory import get_ledger
from ..tasks.registry import tasks

logger = logging.getLogger("celery_idempotent")

BATCH = 100
TOO_OLD = (
    "it is so old that the ledger may have forgotten whether this email was sent (RETENTION). "
    "If it was, delete this message; if not, set its eta to now"
)
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class OutboxVerdict(Enum):
    """What is to be done with a message that was published before."""

    REMOVE = "remove"
    """The ledger knows its end."""
    WAIT = "wait"
    """Somebody is at work on it, or has to decide."""
    PUBLISH = "publish"
    """No sign of life: it may be lost."""
    TOO_OLD = "too old"
    """The ledger may have forgotten that it was sent."""


def judge(stored: Stored, claimant: Claimant, rules: Policy) -> OutboxVerdict:
    """Tell what is to be done with the message of ``claimant``, given what the ledger knows."""
    entry, now = stored.entry, stored.now
    if claimant.task_id in entry.past:
        return OutboxVerdict.REMOVE
    match entry.status:
        case Status.CANCELLED:
            return (
                OutboxVerdict.PUBLISH
                if window_has_passed(entry, now, claimant, rules)
                else OutboxVerdict.REMOVE
            )
        case Status.SENT if entry.is_to_finish(claimant.task_id):
            return OutboxVerdict.PUBLISH
        case Status.SENT:
            # Sent by another task counts, unless window or rule may say that this one is a new email.
            asks = rules.allow_send is not None and not entry.has_participant(claimant.task_id)
            return (
                OutboxVerdict.PUBLISH
                if asks or window_has_passed(entry, now, claimant, rules)
                else OutboxVerdict.REMOVE
            )
        case Status.FAILED:
            # Another task's failure does not answer for this one: called, it would try again.
            return OutboxVerdict.REMOVE if entry.owner == claimant.task_id else OutboxVerdict.PUBLISH
        case Status.IN_DOUBT:
            if is_left_to_rules(entry, rules) or entry.is_recognised(now, rules.send_timeout):
                return (
                    OutboxVerdict.PUBLISH
                )  # the next claim settles it, or offers it again under the provider's key
            return OutboxVerdict.WAIT  # once an operator has released it, the arguments are still here
    return OutboxVerdict.WAIT if entry.is_running(now) else OutboxVerdict.PUBLISH


@dataclass
class Pass:
    """What one pass did."""

    published: int = 0
    removed: int = 0
    waiting: int = 0
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Messages that cannot be published, by task and reason."""

    def __str__(self) -> str:
        text = f"{self.published} published, {self.removed} done, {self.waiting} waiting"
        return text + (f", {self.faults.total()} unsendable" if self.faults else "")


class Relay:
    """Works off the outbox of each of ``OUTBOX_DATABASES``, ``batch`` messages (500 at most) at a time."""

    def __init__(self, app: Celery | None = None, batch: int = BATCH, stop: Event | None = None) -> None:
        self.app = app_or_default(app)
        self.batch = min(batch, store.CHUNK)
        self.stop = stop or Event()

    def once(self, limit: int | None = None) -> Pass:
        """Work off what is due, up to ``limit`` messages of each database, and as many that nobody knows.

        Without a limit, all that is due, and a batch of those that nobody knows.

        Raises `BrokerDown`, and Django's database errors once the other databases are done. What was in hand
        then is due again.
        """
        outcome, away = Pass(), []
        try:
            for alias in conf.outbox_databases:
                try:
                    self._work_off(alias, limit, outcome)
                except DatabaseError as error:
                    away.append(error)
        finally:
            for (task_name, reason), count in outcome.faults.items():
                logger.error("outbox: %d message(s) of %s wait: %s", count, task_name, reason)
        if away:
            raise away[0]
        return outcome

    def run(self, interval: float) -> None:
        """Make one pass after the other, ``interval`` seconds apart, until `stop` is set.

        While the broker or the database does not answer, the pauses grow.
        """
        pause = 0.0
        while not self.stop.is_set():
            try:
                close_old_connections()
                outcome = self.once()
            except (BrokerDown, DatabaseError) as error:
                pause = min(max(FIRST_PAUSE, pause * 2), LONGEST_PAUSE)
                logger.warning("relay: next try in %.0f s: %s", pause, error)
                self.stop.wait(pause)
                continue
            if pause:
                logger.warning("relay: goes on")
            pause = 0.0
            if outcome.published or outcome.removed:
                logger.info("relay: %s", outcome)
            self.stop.wait(interval)

    def _work_off(self, alias: str, limit: int | None, outcome: Pass) -> None:
        """Work off the messages of the app's own tasks, and then those of unknown tasks.

        Another app's relay has its chance at those first. They may be many, so they get one batch per pass: the
        app's own messages never wait for them.
        """
        known = [task.name for task in tasks(self.app)]
        unknown = store.of_unknown_tasks(alias, known, conf.redeliver_after)
        for which, left in ((store.of_tasks(known), limit), (unknown, self.batch if limit is None else limit)):
            while not self.stop.is_set() and left != 0:
                size = self.batch if left is None else min(self.batch, left)
                rows = store.take(alias, size, which)
                left = None if left is None else left - len(rows)
                self._deal(alias, rows, outcome)
                if len(rows) < size:
                    break

    def _deal(self, alias: str, rows: list[OutboxMessage], outcome: Pass) -> None:
        # Never published and young: nobody can have had it. Old: another task may have sent the same since.
        verdicts = self._judged(alias, [row for row in rows if row.tries or _is_forgotten(alias, row)])
        done = [row.task_id for row in rows if verdicts.get(row.pk) is OutboxVerdict.REMOVE]
        outcome.removed += store.remove(alias, done)
        if old := [row for row in rows if verdicts.get(row.pk) is OutboxVerdict.TOO_OLD]:
            store.wait(alias, old, conf.redeliver_after, TOO_OLD)
            outcome.faults.update((row.task, TOO_OLD) for row in old)
        waiting = [row for row in rows if verdicts.get(row.pk) is OutboxVerdict.WAIT]
        store.wait(alias, waiting, conf.redeliver_after)
        outcome.waiting += len(waiting)
        wanted = [row for row in rows if verdicts.get(row.pk, OutboxVerdict.PUBLISH) is OutboxVerdict.PUBLISH]
        if wanted:
            sent = send(self.app, alias, wanted, self.stop.is_set, confirmed=True)
            outcome.published += sent.published
            outcome.faults.update(sent.faults)

    def _judged(self, alias: str, rows: list[OutboxMessage]) -> dict[int, OutboxVerdict]:
        """Ask the ledger about messages that were published before; if it is away, they wait."""
        if not rows:
            return {}
        try:
            known = self._known([row.key for row in rows])
        except LedgerUnavailable as error:
            logger.warning("relay: nothing is published again while the ledger does not answer: %s", error)
            return dict.fromkeys((row.pk for row in rows), OutboxVerdict.WAIT)
        return {row.pk: self._judge(alias, row, known.get(row.key)) for row in rows}

    def _known(self, keys: list[str]) -> dict[str, Stored]:
        ledger = get_ledger(self.app).store
        try:
            return ledger.get_many(keys)
        except EntryUnreadable as error:
            # The worker that gets such a message says so in its result.
            logger.error("relay: %s", error)
        known = {}
        for key in keys:
            with suppress(EntryUnreadable):
                if stored := ledger.get(key):
                    known[key] = stored
        return known

    def _judge(self, alias: str, row: OutboxMessage, stored: Stored | None) -> OutboxVerdict:
        if stored is None:
            return OutboxVerdict.TOO_OLD if _is_forgotten(alias, row) else OutboxVerdict.PUBLISH
        try:
            task = task_of(self.app, row)
        except Unsendable:
            own = stored.entry.owner == row.task_id and stored.entry.status in FINISHED
            done = own and not stored.entry.is_to_finish(row.task_id)
            return OutboxVerdict.REMOVE if done else OutboxVerdict.PUBLISH  # which says what is wrong
        try:
            kind = email_type_of(task)
            rules = kind.policy(True)
        except Exception as error:  # one task's mistake must not stop the messages of the others
            logger.error("relay: messages of %s wait: its options cannot be used: %s", row.task, error)
            return OutboxVerdict.WAIT
        return judge(stored, Claimant(row.key, kind.name, row.task_id), rules)


def _is_forgotten(alias: str, row: OutboxMessage) -> bool:
    """Tell whether the ledger may have had an entry for ``row`` that its retention has ended."""
    return store.age(alias, row) > conf.retention
