"""Claim a key: apply the table of what a claim finds and what it gets."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from datetime import datetime

from ..exceptions import ClaimLost, IdempotencyError
from .attempts import attempt_ended, opaque_begun
from .doubts import doubtful, resolved_by_rules, rules_verdict
from .entry import After, Entry
from .generations import may_send_again, next_generation, with_participant
from .held_claim import HeldClaim
from .outcomes import Acquired, Busy, Duplicate, Held, Mismatch, Outcome
from .policy import Claimant, Policy, Verdict
from .status import DeliveryStatus, Status
from .store import Store, Stored
from .writes import MAX_ROUNDS, swap

logger = logging.getLogger("celery_idempotent")

_BUSY_SECONDS = 1.0
"""Until it is worth asking again where others have changed the entry all the time."""


class Claim:
    """One try of ``claimant`` to get its key. Each method raises `LedgerUnavailable`."""

    def __init__(self, store: Store, claimant: Claimant, policy: Policy) -> None:
        self.id = secrets.token_urlsafe(8)
        self.store = store
        self.claimant = claimant
        self.policy = policy

    def decide(self) -> Outcome:
        """Take the key, or tell why not. One round trip when it is new or already sent."""
        found = self._insert()
        for _ in range(MAX_ROUNDS):
            if found.entry.claim_id == self.id:
                return self._acquired(found.entry)
            outcome = self._look_up(found)
            if outcome is not None:
                return outcome
            found = self.store.get(self.claimant.key) or self._insert()
        return Busy(found.entry, _BUSY_SECONDS)

    def find_done(self) -> Entry | None:
        """Return the entry if this claim would be a duplicate of what is done; one read, no write."""
        found = self.store.get(self.claimant.key)
        if found is None or found.entry.status is not Status.SENT or self._finishes(found.entry):
            return None
        if self.policy.raise_on_mismatch and differs(found.entry, self.claimant):
            return None
        again = may_send_again(found.entry, found.now, self.claimant, self.policy)
        return None if again else found.entry

    def overtake(self, entry: Entry) -> Acquired | None:
        """Take again what the claimant held as ``entry``, from a task that has no more than claimed it."""
        found = self.store.get(self.claimant.key)
        if self.policy.opaque or found is None or found.entry.status is not Status.CLAIMED:
            return None  # an opaque claim is a hand-over
        mismatch = differs(found.entry, self.claimant)
        if found.entry.generation != entry.generation or (mismatch and self.policy.raise_on_mismatch):
            return None
        return self._acquire(found.entry, mismatch)

    def _insert(self) -> Stored:
        fresh = self._taken(_blank(self.claimant))
        attempt = opaque_begun(fresh, self.claimant, self.policy)
        return self.store.insert(replace(fresh, history=(attempt,) if attempt else ()), attempt)

    # -- what is found -----------------------------------------------------------------------------------

    def _look_up(self, found: Stored) -> Outcome | None:
        """Apply the table of what a claim finds; None where the entry has changed meanwhile."""
        entry, now, claimant = found.entry, found.now, self.claimant
        mismatch = differs(entry, claimant)
        if claimant.task_id in entry.past:
            return Duplicate(entry, mismatch)
        if may_send_again(entry, now, claimant, self.policy):
            return self._acquire(entry, becoming=next_generation(entry))
        if mismatch and self.policy.raise_on_mismatch:
            return Mismatch(entry)
        match entry.status:
            case Status.SENT if self._finishes(entry):
                return self._acquire(entry)
            case Status.SENT | Status.CANCELLED:
                return self._duplicate(entry, mismatch)
            case Status.SENDING if entry.is_running(now):
                return Busy(entry, entry.remaining(now))
            case Status.SENDING:
                late = swap(self.store, doubtful(entry), entry, attempt_ended(entry, DeliveryStatus.IN_DOUBT))
                return self._in_doubt(late, now, mismatch, found=True) if late else None
            case Status.IN_DOUBT:
                return self._in_doubt(entry, now, mismatch)
            case Status.CLAIMED | Status.RELEASED if entry.owner != claimant.task_id and entry.is_running(now):
                return Busy(entry, entry.remaining(now))
            case _:
                return self._acquire(entry, mismatch)

    def _in_doubt(self, entry: Entry, now: datetime, mismatch: bool, found: bool = False) -> Outcome | None:
        if entry.deliveries and not entry.doubtful_deliveries():  # events have told
            return self._acquire(entry, mismatch)
        said = rules_verdict(entry, self.policy)
        if said is not Verdict.SENT and self._is_recognised(entry, now):
            return self._acquire_to_offer_again(entry, now, mismatch)
        if said is Verdict.NOT_SENT and callable(self.policy.in_doubt) and entry.is_running(now):
            return Busy(entry, entry.remaining(now))
        if said is Verdict.UNKNOWN:
            return self._held(entry, found)
        settled = resolved_by_rules(entry, said, self.policy, now)
        if said is Verdict.SENT and self.policy.opaque:
            sent = replace(settled, status=Status.SENT, deadline=None, result=None)
            swapped = swap(self.store, sent, entry)
            return Duplicate(swapped, mismatch, settled=True) if swapped else None
        return self._acquire(entry, mismatch, becoming=settled)

    def _is_recognised(self, entry: Entry, now: datetime) -> bool:
        return not self.policy.opaque and entry.is_recognised(now, self.policy.send_timeout)

    def _finishes(self, entry: Entry) -> bool:
        """Tell whether the claim gets what is SENT, for the claimant to finish its own body."""
        return not self.policy.opaque and entry.is_to_finish(self.claimant.task_id)

    # -- what the claim gets -----------------------------------------------------------------------------

    def _acquire(self, entry: Entry, mismatch: bool = False, becoming: Entry | None = None) -> Acquired | None:
        return self._take(self._taken(becoming or entry), entry, mismatch)

    def _acquire_to_offer_again(self, entry: Entry, now: datetime, mismatch: bool) -> Acquired | None:
        """Claim what the provider would recognise. SENDING: it may have the mail already, or still take it."""
        seconds = max(self.policy.lease, entry.remaining(now) if entry.is_running(now) else 0.0)
        taken = replace(self._taken(entry), status=Status.SENDING, deadline=After(seconds))
        return self._take(taken, entry, mismatch)

    def _take(self, wanted: Entry, entry: Entry, mismatch: bool) -> Acquired | None:
        swapped = swap(self.store, wanted, entry, opaque_begun(wanted, self.claimant, self.policy))
        return self._acquired(swapped, mismatch) if swapped else None

    def _acquired(self, entry: Entry, mismatch: bool = False) -> Acquired:
        return Acquired(HeldClaim(self.store, self.claimant, self.policy, entry), mismatch)

    def _taken(self, entry: Entry) -> Entry:
        """Return ``entry`` as claimed; an opaque claim is its own write-ahead."""
        claimant, policy = self.claimant, self.policy
        participants = with_participant(entry, claimant.task_id) if policy.sends_again else entry.participants
        return replace(
            entry,
            claim_id=self.id,
            status=Status.SENDING if policy.opaque else Status.CLAIMED,
            owner=claimant.task_id,
            deadline=After(policy.send_timeout if policy.opaque else policy.lease),
            fingerprint=claimant.fingerprint,
            error="",
            unfinished=False,
            attempts=entry.attempts + (1 if policy.opaque else 0),
            participants=participants,
        )

    def _duplicate(self, entry: Entry, mismatch: bool) -> Duplicate | None:
        again = self.policy.window if entry.status is Status.CANCELLED else self.policy.sends_again
        if not again or entry.has_participant(self.claimant.task_id):
            return Duplicate(entry, mismatch)
        # With a window or a rule, a redelivery of this very duplicate must find itself after the window, too.
        noted = replace(entry, participants=with_participant(entry, self.claimant.task_id))
        swapped = swap(self.store, noted, entry)
        return Duplicate(swapped, mismatch) if swapped else None

    def _held(self, entry: Entry, found: bool) -> Held:
        if entry.provider_key:  # nothing will ever need its content again
            entry = swap(self.store, entry.without_provider_key(), entry) or entry
        return Held(entry, found)


def claim(store: Store, claimant: Claimant, policy: Policy) -> Outcome:
    """Claim the key for ``claimant``. One round trip when the key is new or already sent.

    Raises `LedgerUnavailable`.
    """
    one = Claim(store, claimant, policy)
    try:
        return one.decide()
    except Exception:  # a soft time limit can strike here as well
        if policy.opaque:
            _take_away(one)
        raise


def _take_away(one: Claim) -> None:
    """Take back an opaque claim that may have been stored: its body has not begun, so there is no doubt."""
    try:
        found = one.store.get(one.claimant.key)
        if found is not None and found.entry.claim_id == one.id:
            HeldClaim(one.store, one.claimant, Policy(), found.entry).release("LedgerUnavailable")
    except IdempotencyError as error:
        logger.warning("%s: the claim may stand until its deadline: %s", one.claimant.email_type, error)


def take_back(held: HeldClaim, lost: ClaimLost) -> None:
    """Have ``held`` claim again after another run has taken over that has nothing in a hand-over.

    Whoever is ready to send goes first. If it gave way, bodies that take longer than the lease, or than the
    broker keeps a message unacknowledged, would take the key from each other for ever. The other run is fenced
    off then, as its own hand-over would be refused. Raises ``lost`` where it is not so, `LedgerUnavailable`.
    """
    if lost.owner is None:
        raise lost
    if lost.owner == held.claimant.task_id:
        outcome: Outcome | None = claim(held.store, held.claimant, held.policy)
    else:
        outcome = Claim(held.store, held.claimant, held.policy).overtake(held.entry)
    if not isinstance(outcome, Acquired):
        raise lost
    before, held.entry = held.entry, outcome.entry
    known = {delivery.key for delivery in held.entry.deliveries}
    if forgotten := [delivery for delivery in before.deliveries if delivery.key not in known]:
        held.remember(forgotten)


def differs(entry: Entry, claimant: Claimant) -> bool:
    """Tell whether ``claimant`` wants other content than what was sent or is about to be."""
    if entry.status in (Status.FAILED, Status.RELEASED) and not any(
        d.status is DeliveryStatus.ACCEPTED for d in entry.deliveries
    ):
        return False  # nobody has got the old content, so the new one may be the mended one
    known = entry.fingerprint and claimant.fingerprint and entry.owner != claimant.task_id
    return bool(known and entry.fingerprint != claimant.fingerprint)


def _blank(claimant: Claimant) -> Entry:
    """Return an entry for what ``claimant`` wants, before anybody has claimed it."""
    return Entry(
        key=claimant.key,
        email_type=claimant.email_type,
        status=Status.CLAIMED,
        owner=claimant.task_id,
        label=claimant.label,
        begun_at=After(),
        created_at=After(),
    )
