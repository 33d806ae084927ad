"""What a run may do with a logical email, from its claim to its end, and what a provider tells of it later.

Each method is at most one write for the usual case. A change is a compare-and-swap on the entry's version,
so whoever holds an outdated entry is refused with `ClaimLost` and can do no harm, however late it wakes up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..exceptions import DeliveryInDoubt, IdempotencyError, LedgerUnavailable
from . import attempts, provider_events
from .claims import Claim
from .deliveries import merged
from .doubts import doubtful
from .entry import After, Delivery, Entry
from .mirror import Mirror
from .outcomes import Acquired, Outcome, Reply, Target
from .policy import Claimant, Policy
from .provider_events import Event, EventOutcome
from .provider_offers import Offer
from .status import DeliveryStatus, Status
from .store import Store
from .writes import MAX_ROUNDS, lost, stands, swap, write

logger = logging.getLogger("celery_idempotent")


class Ledger:
    """Claims keys and records what became of them; shows that in the ``mirror``, where there is one."""

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

    # -- the claim ---------------------------------------------------------------------------------------

    def claim(self, claimant: Claimant, policy: Policy) -> Outcome:
        """Claim the key for ``claimant``. One round trip when the key is new or already sent.

        Raises `LedgerUnavailable`.
        """
        claim = Claim(self.store, claimant, policy)
        try:
            return claim.decided()
        except Exception:  # a soft time limit can strike here as well
            if policy.opaque:
                self._unclaim(claim)
            raise

    def _unclaim(self, claim: Claim) -> None:
        """Take back an opaque claim that may have been stored: its body has not begun, so there is no doubt."""
        try:
            found = self.store.get(claim.claimant.key)
            if found is not None and found.entry.claim_id == claim.id:
                self.release(found.entry, Policy(), None, "LedgerUnavailable")
        except IdempotencyError as error:
            logger.warning("%s: the claim may stand until its deadline: %s", claim.claimant.email_type, error)

    def done(self, claimant: Claimant, policy: Policy) -> Entry | None:
        """Return the entry if a claim by ``claimant`` would be a duplicate of what is done; one read, no write.

        Raises `LedgerUnavailable`.
        """
        return Claim(self.store, claimant, policy).done()

    def overtake(self, entry: Entry, claimant: Claimant, policy: Policy) -> Acquired | None:
        """Claim again what ``claimant`` held as ``entry``, from another task that has no more than claimed it.

        For who is ready to send: that other one is fenced off then, as its own hand-over would be refused. None
        where it is not so, or the other one changed it meanwhile. Raises `LedgerUnavailable`.
        """
        return Claim(self.store, claimant, policy).overtaken(entry)

    def remember(self, entry: Entry, rows: Iterable[Delivery]) -> Entry:
        """Write ``rows`` into a claim: deliveries that this process knows of. Raises as `settle` does."""
        return write(self.store, replace(entry, deliveries=merged(entry, rows)), entry)

    # -- the hand-over -----------------------------------------------------------------------------------

    def begin(
        self,
        entry: Entry,
        targets: Iterable[Target],
        message_id: str,
        claimant: Claimant,
        policy: Policy,
        offer: Offer | None = None,
    ) -> Entry:
        """Write ahead that one message is about to be handed over to ``targets``, recognisable by ``offer``.

        Raises `ClaimLost` if another run took over (nothing may be sent then), `LedgerUnavailable`.
        """
        changed, attempt = attempts.begun(entry, targets, message_id, claimant, policy, offer)
        return write(self.store, changed, entry, attempt)

    def begin_again(
        self, entry: Entry, claimant: Claimant, policy: Policy, served: Iterable[Target] | None = None
    ) -> Entry:
        """Write ahead that what is in doubt is about to be handed over once more under its provider key.

        ``served`` are those whom that reaches, None for all; no answer under it counts for the others then.
        Raises `DeliveryInDoubt` if the provider could have forgotten the key before that is over, and as
        `begin` does: nothing may be sent then.
        """
        changed, attempt = attempts.begun_again(entry, claimant, policy, served)
        begun = write(self.store, changed, entry, attempt)
        if begun.deadline <= begun.recognised_until:  # type: ignore[operator]
            return begun
        late = doubtful(begun).without_provider_key()
        write(self.store, late, begun, attempts.attempt_ended(begun, DeliveryStatus.IN_DOUBT))
        raise DeliveryInDoubt(f"{entry.email_type}: the provider may not recognise {entry.key} any more")

    def close_offer(self, entry: Entry) -> Entry:
        """Record that what is in doubt cannot be offered under its key any more: the rules decide then.

        Raises `ClaimLost` if anything has happened to ``entry`` since, `LedgerUnavailable`.
        """
        closed = swap(self.store, doubtful(entry).without_provider_key(), entry)
        if closed is None:
            found = self.store.get(entry.key)
            raise lost(entry, found.entry if found else None)
        return closed

    def withdraw(
        self, entry: Entry, targets: Iterable[Target], message_id: str, claimant: Claimant, policy: Policy
    ) -> Entry:
        """Take back a `begin` on ``entry`` that may or may not have been stored; nothing was sent.

        Raises `ClaimLost` if another run took over, `LedgerUnavailable`.
        """
        current = self.store.get(entry.key)
        if current is None or not stands(current.entry, entry):
            if entry.has_left():
                return self.remember(entry, ())
            raise lost(entry, current.entry if current else None)
        # Written even where it was not stored: it may still be on its way, and is refused then.
        unsent = Reply(DeliveryStatus.DEFERRED, None, "interrupted before the payload")
        return self.settle(current.entry, dict.fromkeys(targets, unsent), message_id, claimant, policy)

    def settle(
        self, entry: Entry, replies: Mapping[Target, Reply], message_id: str, claimant: Claimant, policy: Policy
    ) -> Entry:
        """Record how a hand-over ended for each target, or refusals that came before it.

        The entry is CLAIMED again with a fresh lease, or IN_DOUBT. Raises `ClaimLost`, `LedgerUnavailable`.
        """
        changed, attempt = attempts.answered(entry, replies, message_id, claimant, policy)
        return write(self.store, changed, entry, attempt)

    # -- the end of a run --------------------------------------------------------------------------------

    def complete(self, entry: Entry, result: Any) -> Entry:
        """Record that the task succeeded with ``result``; with something in doubt, that it is in doubt.

        Raises `ClaimLost`, `LedgerUnavailable`.
        """
        if entry.doubtful_deliveries():
            return self._end(entry, Status.FAILED, None, "")
        opaque = entry.status is Status.SENDING
        changed = replace(
            entry,
            status=Status.SENT,
            deadline=None,
            result=result,
            error="",
            sent_at=After() if opaque or entry.sent_at is None else entry.sent_at,
        )
        attempt = attempts.attempt_ended(entry, DeliveryStatus.ACCEPTED) if opaque else None
        return write(self.store, changed, entry, attempt)

    def release(self, entry: Entry, policy: Policy, retry_in: float | None = None, error: str = "") -> Entry:
        """Free the claim; with ``retry_in`` seconds, keep it for the owner until then plus a lease.

        An entry in doubt stays in doubt. Raises `ClaimLost`, `LedgerUnavailable`.
        """
        deadline = None if retry_in is None else After(max(retry_in, 0.0) + policy.lease)
        return self._end(entry, Status.RELEASED, deadline, error)

    def fail(self, entry: Entry, error: str) -> Entry:
        """Give up. An entry in doubt stays in doubt. Raises `ClaimLost`, `LedgerUnavailable`."""
        return self._end(entry, Status.FAILED, None, error)

    def doubt(self, entry: Entry, error: str) -> Entry:
        """Record that an opaque body ended with an unknown outcome. Raises as the others do."""
        attempt = attempts.attempt_ended(entry, DeliveryStatus.IN_DOUBT)
        return write(self.store, replace(doubtful(entry), error=error), entry, attempt)

    def _end(self, entry: Entry, status: Status, deadline: After | None, error: str) -> Entry:
        if entry.status is Status.IN_DOUBT:
            return entry
        if entry.is_unsettled():  # cut off before it was, or not offered again
            return self.doubt(entry, error)
        attempt = (
            attempts.attempt_ended(entry, DeliveryStatus.DEFERRED) if entry.status is Status.SENDING else None
        )
        ended = replace(entry, status=status, deadline=deadline, error=error)
        return write(self.store, ended, entry, attempt)

    # -- what the provider tells later ---------------------------------------------------------------------

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
