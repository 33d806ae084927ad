"""The ledger: claims keys for those who ask, and hears what providers tell of an email later."""

from __future__ import annotations

import logging

from ..exceptions import LedgerUnavailable
from . import claims, provider_events
from .entry import Entry
from .mirror import Mirror
from .outcomes import Outcome
from .policy import Claimant, Policy
from .provider_events import Event, EventOutcome
from .store import Store
from .writes import MAX_ROUNDS, swap

logger = logging.getLogger("celery_idempotent")


class Ledger:
    """Claims keys in ``store``, and shows what became of an email in the ``mirror``, where there is one."""

    def __init__(self, store: Store, mirror: Mirror | None = None) -> None:
        self.store = store
        self.mirror = mirror

    def show(self, entry: Entry) -> None:
        """Bring the mirror up to date. An error there, such as a soft time limit, changes no outcome."""
        if self.mirror is None:
            return
        try:
            self.mirror.show(entry)
        except Exception:
            logger.exception("%s: interrupted while the mirror was written", entry.email_type)

    def count(self, entry: Entry) -> None:
        """Bring the mirror's number of arrivals up to date."""
        if self.mirror is not None:
            self.mirror.count(entry)

    def catch_up(self) -> int:
        """Write some stale copies into the mirror; return how many were. Raises `LedgerUnavailable`."""
        return 0 if self.mirror is None else self.mirror.catch_up()

    def claim(self, claimant: Claimant, policy: Policy) -> Outcome:
        """Claim the key for ``claimant``: `Acquired` has the `HeldClaim`. One round trip in the usual case.

        Raises `LedgerUnavailable`.
        """
        return claims.claim(self.store, claimant, policy)

    def done(self, claimant: Claimant, policy: Policy) -> Entry | None:
        """Return the entry if a claim by ``claimant`` would be a duplicate of what is done; one read, no write.

        Raises `LedgerUnavailable`.
        """
        return claims.Claim(self.store, claimant, policy).find_done()

    def hear(self, key: str, event: Event) -> EventOutcome | None:
        """Keep ``event`` beside the deliveries of ``key``, settle what it proves, and show the entry.

        None for an unknown key. An event that is known already, or about another generation, changes nothing.
        Raises `LedgerUnavailable`.
        """
        for _ in range(MAX_ROUNDS):
            found = self.store.get(key)
            if found is None:
                return None
            changed = provider_events.with_event(found.entry, event, found.now)
            if changed == found.entry:
                self.show(found.entry)
                return EventOutcome(found.entry)
            if (stored := swap(self.store, changed, found.entry)) is not None:
                self.show(stored)
                return EventOutcome(stored, settled=stored.status is not found.entry.status)
        raise LedgerUnavailable(f"{key} changes all the time; tell again")
