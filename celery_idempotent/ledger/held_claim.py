"""A held claim: all that its holder may write about an email, from the write-ahead to the end of the body.

Each method is one write in the usual case, a compare-and-swap on the entry's version. So a holder with an
outdated entry is refused with `ClaimLost`, and can do no harm however late it wakes up. Each method raises
`ClaimLost` where another run has taken over, and `LedgerUnavailable`. It returns the entry as stored then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..exceptions import ClaimLost, DeliveryInDoubt
from .attempts import attempt_answered, attempt_begun, attempt_ended
from .deliveries import merged
from .doubts import doubt_until, doubtful
from .entry import After, Attempt, Delivery, Entry
from .outcomes import Reply, Target
from .policy import Claimant, Policy
from .provider_offers import (
    Offer,
    after_handover,
    as_before_reoffer,
    reoffered,
    settled_reply,
    with_provider_key,
)
from .status import DeliveryStatus, Status
from .store import Store
from .writes import lost, stands, swap, write

NOT_YET = "not offered yet"
"""How the detail of a delivery begins whose recipient no server was asked about."""
_LONGEST_DETAIL = 200
"""Characters of a server's reply that a delivery keeps."""


class HeldClaim:
    """The newest entry of a claim, who holds it, by which rules, and the store it is written to."""

    def __init__(self, store: Store, claimant: Claimant, policy: Policy, entry: Entry) -> None:
        self.store = store
        self.claimant = claimant
        self.policy = policy
        self.entry = entry

    # -- the hand-over -------------------------------------------------------------------------------------

    def begin(
        self,
        targets: Sequence[Target],
        message_id: str,
        offer: Offer | None = None,
        waiting: Sequence[Target] = (),
    ) -> Entry:
        """Write ahead that one message is about to be handed over to ``targets``, recognisable by ``offer``.

        ``waiting`` are recipients of the message who are not offered it yet: they are noted first, as the end
        of a doubt must not be the end for them. Whatever this raises, nothing may be sent.
        """
        known = {delivery.key for delivery in self.entry.deliveries}
        if new := [one for one in waiting if (one[0], one[1].digest) not in known]:
            self.remember(Delivery(*one, DeliveryStatus.DEFERRED, message_id, detail=NOT_YET) for one in new)
        rows = [Delivery(*one, DeliveryStatus.SENDING, message_id) for one in targets]
        opened = with_provider_key(self.entry, offer)
        changed = self._sending(replace(opened, deliveries=merged(opened, rows)))
        return self._write(changed, attempt_begun(changed, self.claimant, rows))

    def begin_again(self, served: Iterable[Target] | None = None) -> Entry:
        """Write ahead that what is in doubt is about to be handed over once more, under its provider key.

        ``served`` are the recipients of this offer, None for all: no answer to it counts for the others. Raises
        `DeliveryInDoubt` as well, if the provider could forget the key before the offer is over.
        """
        places = None if served is None else {(part, who.digest) for part, who in served}
        changed = self._sending(reoffered(self.entry, places))
        rows = [delivery for delivery in changed.deliveries if delivery.status is DeliveryStatus.SENDING]
        begun = self._write(changed, attempt_begun(changed, self.claimant, rows))
        if begun.deadline <= begun.recognised_until:  # type: ignore[operator]
            return begun
        late = doubtful(begun).without_provider_key()
        self._write(late, attempt_ended(begun, DeliveryStatus.IN_DOUBT))
        raise DeliveryInDoubt(f"{begun.email_type}: the provider may not recognise {begun.key} any more")

    def close_offer(self) -> Entry:
        """Record that what is in doubt cannot be offered under its provider key: the rules decide then.

        Raises `ClaimLost` if anything has happened to the entry since.
        """
        closed = swap(self.store, doubtful(self.entry).without_provider_key(), self.entry)
        if closed is None:
            found = self.store.get(self.entry.key)
            raise lost(self.entry, found.entry if found else None)
        return self._keep(closed)

    def settle(self, replies: Mapping[Target, Reply], message_id: str) -> Entry:
        """Record how a hand-over ended for each target, or refusals that came before it.

        The entry is CLAIMED again with a fresh lease, or IN_DOUBT.
        """
        rows, before = [], as_before_reoffer(self.entry)
        for (part, who), said in replies.items():
            reply = settled_reply(before, (part, who.digest), said)
            detail = reply.detail[:_LONGEST_DETAIL]
            rows.append(Delivery(part, who, reply.status, message_id, reply.code, detail))
        changed = self._answered(merged(before, rows), any(r.status is DeliveryStatus.ACCEPTED for r in rows))
        return self._write(changed, attempt_answered(changed, self.claimant, rows))

    def withdraw(self, targets: Iterable[Target], message_id: str) -> Entry:
        """Take back a `begin` that may or may not have been stored; nothing was sent."""
        stored = self.store.get(self.entry.key)
        if stored is None or not stands(stored.entry, self.entry):
            if self.entry.has_left():
                return self.remember(())
            raise lost(self.entry, stored.entry if stored else None)
        self._keep(stored.entry)
        # Written even where it was not stored: it may still be on its way, and is refused then.
        unsent = dict.fromkeys(targets, Reply(DeliveryStatus.DEFERRED, None, "interrupted before the payload"))
        try:
            return self.settle(unsent, message_id)
        except ClaimLost:
            landed = self.store.get(self.entry.key)
            own = landed is not None and stands(landed.entry, self.entry)
            if landed is None or not own or landed.entry.attempts != self.entry.attempts + 1:
                raise
            self._keep(landed.entry)  # it was stored after the look, and before the withdrawal
            return self.settle(unsent, message_id)

    def remember(self, rows: Iterable[Delivery]) -> Entry:
        """Write ``rows`` into the entry: deliveries that this process knows of."""
        return self._write(replace(self.entry, deliveries=merged(self.entry, rows)))

    def _sending(self, entry: Entry) -> Entry:
        deadline = After(self.policy.send_timeout)
        return replace(entry, status=Status.SENDING, deadline=deadline, attempts=entry.attempts + 1)

    def _answered(self, deliveries: tuple[Delivery, ...], accepted: bool) -> Entry:
        entry = self.entry
        doubt = any(delivery.status is DeliveryStatus.IN_DOUBT for delivery in deliveries)
        # Refused before there was anything to write ahead: an attempt all the same.
        number = entry.attempts if entry.status is Status.SENDING else entry.attempts + 1
        changed = replace(
            entry,
            status=Status.IN_DOUBT if doubt else Status.CLAIMED,
            deadline=doubt_until(entry) if doubt else After(self.policy.lease),
            attempts=number,
            offers=entry.offers + number - entry.attempts if entry.offers else 0,
            sent_at=After() if accepted else entry.sent_at,
            deliveries=deliveries,
        )
        return after_handover(changed, accepted)

    # -- the end -------------------------------------------------------------------------------------------

    def complete(self, result: Any) -> Entry:
        """Record that the task succeeded with ``result``; with something in doubt, that it is in doubt."""
        entry = self.entry
        if entry.doubtful_deliveries():
            return self._end(Status.FAILED, None, "")
        opaque = entry.status is Status.SENDING
        changed = replace(
            entry,
            status=Status.SENT,
            deadline=None,
            result=result,
            error="",
            sent_at=After() if opaque or entry.sent_at is None else entry.sent_at,
        )
        return self._write(changed, attempt_ended(entry, DeliveryStatus.ACCEPTED) if opaque else None)

    def release(self, error: str = "", retry_in: float | None = None) -> Entry:
        """Free the claim; with ``retry_in`` seconds, keep it for the owner until then plus a lease.

        An entry in doubt stays in doubt.
        """
        deadline = None if retry_in is None else After(max(retry_in, 0.0) + self.policy.lease)
        return self._end(Status.RELEASED, deadline, error)

    def fail(self, error: str) -> Entry:
        """Give up. An entry in doubt stays in doubt."""
        return self._end(Status.FAILED, None, error)

    def doubt(self, error: str) -> Entry:
        """Record that an opaque body ended with an unknown outcome."""
        changed = replace(doubtful(self.entry), error=error)
        return self._write(changed, attempt_ended(self.entry, DeliveryStatus.IN_DOUBT))

    def _end(self, status: Status, deadline: After | None, error: str) -> Entry:
        entry = self.entry
        if entry.status is Status.IN_DOUBT:
            return entry
        if entry.is_unsettled():  # cut off before it was, or not offered again
            return self.doubt(error)
        attempt = attempt_ended(entry, DeliveryStatus.DEFERRED) if entry.status is Status.SENDING else None
        return self._write(replace(entry, status=status, deadline=deadline, error=error), attempt)

    def _write(self, changed: Entry, attempt: Attempt | None = None) -> Entry:
        return self._keep(write(self.store, changed, self.entry, attempt))

    def _keep(self, entry: Entry) -> Entry:
        self.entry = entry
        return entry
