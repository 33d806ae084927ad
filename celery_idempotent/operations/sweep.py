"""Periodic sweep: expire claims, settle doubts by verifiers, refresh the mirror, report stuck emails.

That is passed deadlines, doubts that a verifier can settle, a mirror that is behind, and what is stuck.
Everything is decided by the store's clock and written by compare-and-swap, so any number of sweeps may run at
once and nothing that is alive is touched.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..email_types.email_type import email_type_of
from ..exceptions import (
    ClaimLost,
    DeliveryInDoubt,
    EntryUnreadable,
    IdempotencyError,
    InterventionRefused,
    LedgerUnavailable,
)
from ..execution.reporting import tell
from ..ledger import doubts
from ..ledger.deadlines import expire
from ..ledger.decisions import Operator
from ..ledger.entry import Entry
from ..ledger.ledger import Ledger
from ..ledger.policy import Policy, Verdict
from ..ledger.status import Status
from ..ledger.store import Stored
from ..ledger.writes import swap
from ..stores.factory import get_ledger
from ..tasks.registry import by_email_type
from . import search

logger = logging.getLogger("celery_idempotent")

LIMIT = 500
"""Entries that one pass looks at, for each of the things it does."""
STUCK_AFTER = 3600.0
"""Seconds without a change after which an unfinished entry is reported."""
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Stuck:
    """An entry that waits for somebody."""

    key: str
    email_type: str
    label: str
    status: str
    since: datetime


@dataclass(slots=True)
class Swept:
    """What a pass did."""

    released: int = 0
    """Claims whose lease had passed."""
    in_doubt: int = 0
    """Hand-overs whose send deadline had passed."""
    sent: int = 0
    """Doubts that a verifier settled as sent."""
    not_sent: int = 0
    unknown: int = 0
    """Doubts that a verifier could not settle."""
    mirrored: int = 0
    """Entries that the mirror was behind with."""
    stuck: list[Stuck] = field(default_factory=list)


class Sweep:
    """One pass over ``ledger``."""

    def __init__(self, ledger: Ledger, limit: int = LIMIT, app: Any = None) -> None:
        self.ledger = ledger
        self.limit = limit
        self.done = Swept()
        self._known = by_email_type(app)
        self._found: list[str] = []

    def expire_deadlines(self) -> None:
        """Release what has lost its lease, and call in doubt what has passed its send deadline."""
        for late in self.ledger.store.due(self.limit):
            try:
                entry = expire(self.ledger.store, late.key)
            except EntryUnreadable as error:
                logger.error("%s", error)
                continue
            if entry is None:
                continue
            self.ledger.show(entry)
            if entry.status is Status.IN_DOUBT:
                self.done.in_doubt += 1
                self._found.append(entry.key)
                self._tell(entry, DeliveryInDoubt("the send deadline has passed, found by the sweep"))
            else:
                self.done.released += 1
                self._tell(entry, ClaimLost("the lease has passed, found by the sweep"))

    def settle_doubts(self) -> None:
        """Ask the verifiers of the tasks that this process knows about entries in doubt."""
        for key in dict.fromkeys((*self._found, *search.keys_in_doubt(self.limit))):
            try:
                stored = self.ledger.store.get(key)
                if stored is not None and stored.entry.status is Status.IN_DOUBT:
                    self._verify(self._unfrozen(stored))
            except InterventionRefused:
                continue  # somebody was faster, or it is too early
            except EntryUnreadable as error:
                logger.error("%s", error)

    def _unfrozen(self, stored: Stored) -> Entry:
        """Erase a frozen message that no provider would recognise any more."""
        entry = stored.entry
        if not entry.sealed or entry.is_recognised(stored.now, 0):
            return entry
        return swap(self.ledger.store, entry.without_provider_key(), entry) or entry

    def _verify(self, entry: Entry) -> None:
        task = self._known.get(entry.email_type)
        verifier = "hold" if task is None else email_type_of(task).in_doubt
        if task is None or isinstance(verifier, str):
            return
        verdict = doubts.rules_verdict(entry, Policy(in_doubt=verifier))
        if verdict is Verdict.UNKNOWN:
            self.done.unknown += 1
            return
        reason = f"the verifier of {task.name} says: {verdict.value}"
        settled = Operator(self.ledger, "sweep", reason).resolve(entry, verdict)
        if verdict is Verdict.SENT:
            self.done.sent += 1
        else:
            self.done.not_sent += 1
        self._tell(settled, DeliveryInDoubt(reason))

    def catch_up(self) -> None:
        """Bring the mirror up to date."""
        try:
            while self.done.mirrored < self.limit and (done := self.ledger.catch_up()):
                self.done.mirrored += done
        except LedgerUnavailable as error:
            logger.warning("the mirror stays behind: %s", error)

    def report_stuck(self, seconds: float) -> None:
        """Log what is stuck."""
        if not search.has_tables():
            return
        with search.rows() as rows:
            names = ("key", "email_type", "label", "status", "updated_at")
            found = rows.stuck(seconds).values_list(*names)[: self.limit]
            self.done.stuck = [Stuck(*values) for values in found]
        for one in self.done.stuck[:_NAMED]:
            logger.warning(
                "%s: stuck, %s since %s: %s (%s)", one.email_type, one.status, one.since, one.key, one.label
            )
        if len(self.done.stuck) > _NAMED:
            logger.warning("and %d more are stuck", len(self.done.stuck) - _NAMED)

    def _tell(self, entry: Entry, error: IdempotencyError) -> None:
        tell(self._known.get(entry.email_type), entry, "sweep", error)


def sweep(limit: int = LIMIT, stuck_after: float = STUCK_AFTER, app: Any = None) -> Swept:
    """Make one pass, and return what it did. Raises `LedgerUnavailable`; ``stuck_after`` is in seconds."""
    one = Sweep(get_ledger(app), limit, app)
    one.expire_deadlines()
    one.catch_up()
    one.settle_doubts()
    one.report_stuck(stuck_after)
    return one.done
