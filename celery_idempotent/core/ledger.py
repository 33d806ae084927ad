"""Every decision about a logical email, over the primitives of a `Store`.

Each method is at most one write for the usual case. A change is a compare-and-swap on the entry's version,
so whoever holds an outdated entry is refused with `ClaimLost` and can do no harm, however late it wakes up.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from . import changes, events, offers
from .entry import After, Attempt, Delivery, Entry
from .errors import ClaimLost, DeliveryInDoubt, IdempotencyError, LedgerUnavailable
from .events import Event
from .offers import Offer
from .outcomes import (
    Acquired,
    Asker,
    Busy,
    Duplicate,
    Held,
    Mismatch,
    Outcome,
    Policy,
    Reply,
    SendRequest,
    Target,
    Verdict,
)
from .status import IN_FLIGHT, DeliveryStatus, Status
from .store import Store, Stored
from .writing import swap

logger = logging.getLogger("celery_idempotent")

MAX_ROUNDS = 16
"""How often a claim looks again when others change the entry under it, before it says Busy."""
BUSY_SECONDS = 1.0


class Ledger:
    """Claims keys and records what became of them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- the claim ---------------------------------------------------------------------------------------

    def claim(self, asker: Asker, policy: Policy) -> Outcome:
        """Claim the key for ``asker``. One round trip when the key is new or already sent.

        Raises `LedgerUnavailable`.
        """
        claim_id = secrets.token_urlsafe(8)
        try:
            return self._claim(claim_id, asker, policy)
        except Exception:  # a soft time limit can strike here as well
            if policy.opaque:
                self._unclaim(claim_id, asker)
            raise

    def _unclaim(self, claim_id: str, asker: Asker) -> None:
        """Take back an opaque claim that may have been stored: its body has not begun, so there is no doubt."""
        try:
            found = self.store.get(asker.key)
            if found is not None and found.entry.claim_id == claim_id:
                self.release(found.entry, Policy(), None, "LedgerUnavailable")
        except IdempotencyError as error:
            logger.warning("%s: the claim may stand until its deadline: %s", asker.email_type, error)

    def _claim(self, claim_id: str, asker: Asker, policy: Policy) -> Outcome:
        found = self._insert(claim_id, asker, policy)
        for _ in range(MAX_ROUNDS):
            if found.entry.claim_id == claim_id:
                return Acquired(found.entry)
            outcome = self._decide(found, claim_id, asker, policy)
            if outcome is not None:
                return outcome
            found = self.store.get(asker.key) or self._insert(claim_id, asker, policy)
        return Busy(found.entry, BUSY_SECONDS)

    def done(self, asker: Asker, policy: Policy) -> Entry | None:
        """Return the entry if a claim by ``asker`` would be a duplicate of what is done; one read, no write.

        Raises `LedgerUnavailable`.
        """
        found = self.store.get(asker.key)
        if found is None or found.entry.status is not Status.SENT or _finishes(found.entry, asker, policy):
            return None
        if policy.raise_on_mismatch and changes.differs(found.entry, asker):
            return None
        return None if self._may_send_again(found.entry, found.now, asker, policy) else found.entry

    def _insert(self, claim_id: str, asker: Asker, policy: Policy) -> Stored:
        fresh = changes.taken(changes.blank(asker), claim_id, asker, policy)
        attempt = changes.opaque_begun(fresh, asker, policy)
        return self.store.insert(replace(fresh, history=changes.with_attempt(fresh, attempt)), attempt)

    def _decide(self, found: Stored, claim_id: str, asker: Asker, policy: Policy) -> Outcome | None:
        """Apply the table of what a claim finds; None when the entry changed meanwhile."""
        entry, now = found.entry, found.now
        mismatch = changes.differs(entry, asker)
        if asker.task_id in entry.past:
            return Duplicate(entry, mismatch)
        if self._may_send_again(entry, now, asker, policy):
            return self._acquire(entry, claim_id, asker, policy, becoming=changes.next_generation(entry))
        if mismatch and policy.raise_on_mismatch:
            return Mismatch(entry)
        match entry.status:
            case Status.SENT if _finishes(entry, asker, policy):
                return self._acquire(entry, claim_id, asker, policy)
            case Status.SENT | Status.CANCELLED:
                return self._duplicate(entry, asker, policy, mismatch)
            case Status.SENDING if changes.running(entry, now):
                return Busy(entry, changes.remaining(entry, now))
            case Status.SENDING:
                ended = changes.ended(entry, DeliveryStatus.IN_DOUBT)
                doubtful = self._swap(changes.doubtful(entry), entry, ended)
                if doubtful is None:
                    return None
                return self._in_doubt(Stored(doubtful, now), claim_id, asker, policy, mismatch, True)
            case Status.IN_DOUBT:
                return self._in_doubt(found, claim_id, asker, policy, mismatch)
            case Status.CLAIMED | Status.RELEASED if entry.owner != asker.task_id and changes.running(
                entry, now
            ):
                return Busy(entry, changes.remaining(entry, now))
            case _:
                return self._acquire(entry, claim_id, asker, policy, mismatch)

    def _may_send_again(self, entry: Entry, now: datetime, asker: Asker, policy: Policy) -> bool:
        """Tell whether ``asker`` opens a new generation: the window has passed, or the task's rule says so."""
        if changes.starts_new_generation(entry, now, asker, policy):
            return True
        finished = entry.status in (Status.SENT, Status.FAILED)
        if policy.allow_send is None or not finished or changes.took_part(entry, asker.task_id):
            return False
        try:
            said = policy.allow_send(entry, SendRequest(asker.task_id, asker.args, asker.kwargs, now))
        except Exception:
            logger.exception("allow_send of %s raised, which counts as no", entry.email_type)
            return False
        if said is not None and not isinstance(said, bool):
            logger.error("allow_send of %s returned a %s, which counts as no", entry.email_type, type(said))
        return said is True

    def _acquire(
        self,
        entry: Entry,
        claim_id: str,
        asker: Asker,
        policy: Policy,
        mismatch: bool = False,
        becoming: Entry | None = None,
    ) -> Acquired | None:
        wanted = changes.taken(becoming or entry, claim_id, asker, policy)
        taken = self._swap(wanted, entry, changes.opaque_begun(wanted, asker, policy))
        return Acquired(taken, mismatch) if taken else None

    def _duplicate(self, entry: Entry, asker: Asker, policy: Policy, mismatch: bool) -> Duplicate | None:
        known = changes.took_part(entry, asker.task_id)
        if not policy.sends_again or known or entry.status is Status.CANCELLED:
            return Duplicate(entry, mismatch)
        # With a window or a rule, a redelivery of this very duplicate must find itself after the window, too.
        noted = self._swap(replace(entry, participants=changes.with_participant(entry, asker.task_id)), entry)
        return Duplicate(noted, mismatch) if noted else None

    def _in_doubt(
        self, stored: Stored, claim_id: str, asker: Asker, policy: Policy, mismatch: bool, found: bool = False
    ) -> Outcome | None:
        entry = stored.entry
        if entry.deliveries and not offers.doubtful(entry):  # events have told
            return self._acquire(entry, claim_id, asker, policy, mismatch)
        verdict = self.verdict(entry, policy)
        recognised = not policy.opaque and offers.is_recognised(entry, stored.now, policy.send_timeout)
        if recognised and verdict is not Verdict.SENT:
            return self._acquire_again(entry, claim_id, asker, policy, mismatch)
        if verdict is Verdict.UNKNOWN:
            # Nothing will ever need its content again.
            return Held(
                self._swap(offers.closed(entry), entry) or entry if entry.provider_key else entry, found
            )
        if verdict is Verdict.SENT and policy.opaque:
            sent = changes.resolved_by_rules(entry, verdict, policy, stored.now)
            swapped = self._swap(replace(sent, status=Status.SENT, deadline=None, result=None), entry)
            return Duplicate(swapped, mismatch, settled=True) if swapped else None
        settled = changes.resolved_by_rules(entry, verdict, policy, stored.now)
        return self._acquire(entry, claim_id, asker, policy, mismatch, becoming=settled)

    def _acquire_again(
        self, entry: Entry, claim_id: str, asker: Asker, policy: Policy, mismatch: bool
    ) -> Acquired | None:
        """Claim what the provider would recognise, to offer it again. SENDING: it may have the mail already."""
        wanted = replace(changes.taken(entry, claim_id, asker, policy), status=Status.SENDING)
        taken = self._swap(wanted, entry)
        return Acquired(taken, mismatch) if taken else None

    def verdict(self, entry: Entry, policy: Policy) -> Verdict:
        """Ask the rules about an entry in doubt; a verifier that raises, or gives no verdict, does not know."""
        if policy.in_doubt == "resend":
            return Verdict.NOT_SENT
        if isinstance(policy.in_doubt, str):
            return Verdict.UNKNOWN
        try:
            said: Any = policy.in_doubt(entry)
        except Exception:
            logger.exception("the verifier of %s raised; the entry stays in doubt", entry.email_type)
            return Verdict.UNKNOWN
        if isinstance(said, Verdict):
            return said
        logger.error("the verifier of %s returned a %s, which is no Verdict", entry.email_type, type(said))
        return Verdict.UNKNOWN

    def overtake(self, entry: Entry, asker: Asker, policy: Policy) -> Acquired | None:
        """Claim again what ``asker`` held as ``entry``, from another task that has no more than claimed it.

        For who is ready to send: that other one is fenced off then, as its own hand-over would be refused. None
        where it is not so, or the other one changed it meanwhile. Raises `LedgerUnavailable`.
        """
        found = self.store.get(asker.key)
        if policy.opaque or found is None or found.entry.status is not Status.CLAIMED:
            return None  # an opaque claim is a hand-over
        mismatch = changes.differs(found.entry, asker)
        if found.entry.generation != entry.generation or (mismatch and policy.raise_on_mismatch):
            return None
        return self._acquire(found.entry, secrets.token_urlsafe(8), asker, policy, mismatch)

    # -- the hand-over -----------------------------------------------------------------------------------

    def begin(
        self,
        entry: Entry,
        targets: Iterable[Target],
        message_id: str,
        asker: Asker,
        policy: Policy,
        offer: Offer | None = None,
    ) -> Entry:
        """Write ahead that one message is about to be handed over to ``targets``, recognisable by ``offer``.

        Raises `ClaimLost` if another run took over (nothing may be sent then), `LedgerUnavailable`.
        """
        rows = [Delivery(part, who, DeliveryStatus.SENDING, message_id) for part, who in targets]
        changed = replace(
            offers.opened(entry, offer),
            status=Status.SENDING,
            deadline=After(policy.send_timeout),
            attempts=entry.attempts + 1,
            deliveries=changes.merged(entry, rows),
        )
        return self._must_swap(changed, entry, changes.begun(changed, asker, rows))

    def begin_again(self, entry: Entry, asker: Asker, policy: Policy) -> Entry:
        """Write ahead that what is in doubt is about to be handed over once more under its provider key.

        Raises `DeliveryInDoubt` if the provider could have forgotten the key before that is over, and as
        `begin` does: nothing may be sent then.
        """
        changed = replace(
            offers.again(entry),
            status=Status.SENDING,
            deadline=After(policy.send_timeout),
            attempts=entry.attempts + 1,
        )
        rows = [delivery for delivery in changed.deliveries if delivery.status is DeliveryStatus.SENDING]
        begun = self._must_swap(changed, entry, changes.begun(changed, asker, rows))
        if begun.deadline <= begun.recognised_until:  # type: ignore[operator]
            return begun
        late = offers.closed(changes.doubtful(begun))
        self._must_swap(late, begun, changes.ended(begun, DeliveryStatus.IN_DOUBT))
        raise DeliveryInDoubt(f"{entry.email_type}: the provider may not recognise {entry.key} any more")

    def close_offer(self, entry: Entry) -> Entry:
        """Record that what is in doubt cannot be offered under its key any more: the rules decide then.

        Raises `ClaimLost` if anything has happened to ``entry`` since, `LedgerUnavailable`.
        """
        closed = self._swap(offers.closed(changes.doubtful(entry)), entry)
        if closed is None:
            found = self.store.get(entry.key)
            raise lost(entry, found.entry if found else None)
        return closed

    def withdraw(
        self, entry: Entry, targets: Iterable[Target], message_id: str, asker: Asker, policy: Policy
    ) -> Entry:
        """Take back a `begin` on ``entry`` that may or may not have been stored; nothing was sent.

        Raises `ClaimLost` if another run took over, `LedgerUnavailable`.
        """
        current = self.store.get(entry.key)
        if current is None or not self._is_ours(current.entry, entry):
            if changes.has_left(entry):
                return self.remember(entry, ())
            raise lost(entry, current.entry if current else None)
        # Written even where it was not stored: it may still be on its way, and is refused then.
        unsent = Reply(DeliveryStatus.DEFERRED, None, "interrupted before the payload")
        return self.settle(current.entry, dict.fromkeys(targets, unsent), message_id, asker, policy)

    def settle(
        self, entry: Entry, replies: Mapping[Target, Reply], message_id: str, asker: Asker, policy: Policy
    ) -> Entry:
        """Record how a hand-over ended for each target, or refusals that came before it.

        The entry is CLAIMED again with a fresh lease, or IN_DOUBT. Raises `ClaimLost`, `LedgerUnavailable`.
        """
        rows, before = [], offers.before(entry)
        for (part, who), said in replies.items():
            reply = offers.settled(before, (part, who.digest), said)
            rows.append(Delivery(part, who, reply.status, message_id, reply.code, reply.detail[:200]))
        deliveries = changes.merged(before, rows)
        doubt = any(delivery.status is DeliveryStatus.IN_DOUBT for delivery in deliveries)
        accepted = any(row.status is DeliveryStatus.ACCEPTED for row in rows)
        # Refused before there was anything to write ahead: an attempt all the same.
        attempts = entry.attempts if entry.status is Status.SENDING else entry.attempts + 1
        changed = replace(
            entry,
            status=Status.IN_DOUBT if doubt else Status.CLAIMED,
            deadline=None if doubt else After(policy.lease),
            attempts=attempts,
            offers=entry.offers + attempts - entry.attempts if entry.offers else 0,
            sent_at=After() if accepted else entry.sent_at,
            deliveries=deliveries,
        )
        changed = offers.after(changed, accepted)
        attempt = replace(changes.begun(changed, asker, rows), ended_at=After(), **changes.summary(rows))
        return self._must_swap(changed, entry, attempt)

    # -- the end of a run --------------------------------------------------------------------------------

    def complete(self, entry: Entry, result: Any) -> Entry:
        """Record that the task succeeded with ``result``; with something in doubt, that it is in doubt.

        Raises `ClaimLost`, `LedgerUnavailable`.
        """
        if offers.doubtful(entry):
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
        return self._must_swap(
            changed, entry, changes.ended(entry, DeliveryStatus.ACCEPTED) if opaque else None
        )

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
        changed = replace(changes.doubtful(entry), error=error)
        return self._must_swap(changed, entry, changes.ended(entry, DeliveryStatus.IN_DOUBT))

    def _end(self, entry: Entry, status: Status, deadline: After | None, error: str) -> Entry:
        if entry.status is Status.IN_DOUBT:
            return entry
        if changes.unsettled(entry):  # cut off before it was, or not offered again
            return self.doubt(entry, error)
        attempt = changes.ended(entry, DeliveryStatus.DEFERRED) if entry.status is Status.SENDING else None
        return self._must_swap(replace(entry, status=status, deadline=deadline, error=error), entry, attempt)

    # -- what the provider tells later ---------------------------------------------------------------------

    def hear(self, key: str, event: Event) -> Entry | None:
        """Keep ``event`` beside the deliveries of ``key``, and settle what it proves; return the entry.

        None for an unknown key. An event that is known already, or about another generation, changes nothing.
        Raises `LedgerUnavailable`.
        """
        for _ in range(MAX_ROUNDS):
            found = self.store.get(key)
            if found is None:
                return None
            changed = events.heard(found.entry, event, found.now)
            if changed == found.entry:
                return found.entry
            if (stored := self._swap(changed, found.entry)) is not None:
                return stored
        raise LedgerUnavailable(f"{key} changes all the time; tell again")

    # -- writing -----------------------------------------------------------------------------------------

    def _swap(self, changed: Entry, entry: Entry, attempt: Attempt | None = None) -> Entry | None:
        return swap(self.store, changed, entry, attempt)

    def _deadline_was_seen(self, current: Entry, entry: Entry) -> bool:
        """Tell whether all that happened to ``entry`` is that somebody saw its deadline pass.

        Nobody has claimed since, so this run may go on, and the outcome that it knows counts after all.
        """
        if not self._is_ours(current, entry) or current.attempts != entry.attempts:
            return False
        if current.status is Status.IN_DOUBT:
            return entry.status is Status.SENDING
        return current.status is Status.RELEASED and entry.status in IN_FLIGHT

    def _is_ours(self, current: Entry, entry: Entry) -> bool:
        """Tell whether the claim on ``entry`` still stands in ``current``: nobody has acted on it since."""
        same = current.claim_id == entry.claim_id and current.generation == entry.generation
        return same and current.status in (*IN_FLIGHT, Status.IN_DOUBT, Status.RELEASED)

    def _must_swap(self, changed: Entry, entry: Entry, attempt: Attempt | None = None) -> Entry:
        swapped = self._swap(changed, entry, attempt)
        if swapped is not None:
            return swapped
        stored = self.store.get(entry.key)
        current = stored.entry if stored else None
        if current is not None and current.claim_id == entry.claim_id:
            if changes.is_same_write(current, changed):
                return current  # an earlier try of this very write, whose confirmation was lost
            if events.came_meanwhile(current, entry) or self._deadline_was_seen(current, entry):
                return self._must_swap(events.rebased(changed, current, 60), current, attempt)
        if changes.has_left(changed) and (current is None or current.version < entry.version):
            return self._restored(changed, entry, current, attempt)
        raise lost(entry, current)

    def _restored(self, changed: Entry, entry: Entry, current: Entry | None, attempt: Attempt | None) -> Entry:
        """Write ``changed`` although the store has forgotten ``entry``, as after a failover or from a backup.

        This process knows what has left it. First the claim is made anew, in what the store has now; whoever
        has claimed since, and is in a hand-over, is left alone.
        """
        claim = replace(changed, status=Status.CLAIMED, deadline=After(60), history=())
        if current is None:
            base = self.store.insert(replace(claim, version=1, created_at=After(), deliveries=())).entry
            if base.claim_id != entry.claim_id:
                raise lost(entry, base)
        elif current.status is Status.SENDING and current.claim_id != entry.claim_id:
            raise lost(entry, current)
        else:
            since = replace(claim, created_at=current.created_at, history=current.history)
            swapped = self._swap(
                replace(since, deliveries=changes.merged(current, changed.deliveries)), current
            )
            if swapped is None:
                raise lost(entry, current)
            base = swapped
        logger.error("%s: the store had forgotten %s, written anew", entry.email_type, entry.key)
        rows = changes.merged(base, changed.deliveries)
        return self._must_swap(replace(changed, created_at=base.created_at, deliveries=rows), base, attempt)

    def remember(self, entry: Entry, rows: Iterable[Delivery]) -> Entry:
        """Write ``rows`` into a claim: deliveries that this process knows of. Raises as `settle` does."""
        return self._must_swap(replace(entry, deliveries=changes.merged(entry, rows)), entry)


def _finishes(entry: Entry, asker: Asker, policy: Policy) -> bool:
    """Tell whether ``asker`` gets the claim of what is SENT, to finish its own body."""
    return not policy.opaque and changes.is_to_finish(entry, asker.task_id)


def lost(entry: Entry, current: Entry | None) -> ClaimLost:
    """Return the error of a run whose ``entry`` is outdated; it names the owner of a newer claim, if any."""
    newer = current is not None and current.claim_id != entry.claim_id and current.version > entry.version
    owner = current.owner if current is not None and newer else None
    return ClaimLost(f"{entry.email_type}: the claim on {entry.key} is no longer this run's", owner)
