"""Write an entry in the name of a claim, and find out why the store refused.

It need not be that another run has taken over. An earlier try of the same write may have been stored without a
confirmation, the provider may have told something, somebody may have seen the deadline pass, or the store may
have been set back: the run goes on then. Otherwise it is fenced off, by `ClaimLost`.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ..exceptions import ClaimLost, TransitionForbidden
from . import attempts, provider_offers
from .deliveries import merged, without_events
from .entry import After, Attempt, Entry
from .provider_events import rebased
from .status import IN_FLIGHT, TRANSITIONS, DeliveryStatus, Status
from .store import Store

logger = logging.getLogger("celery_idempotent")

_LEASE = 60.0
"""Seconds, of a claim that is made good here: the run is about to write again."""


def write(store: Store, changed: Entry, entry: Entry, attempt: Attempt | None = None) -> Entry:
    """Write ``changed`` in place of ``entry``, the newest that the run knows, and return it as it is stored.

    Others may change the entry again and again, so each time it is compared with what the run knows. Raises
    `ClaimLost` if the claim on ``entry`` is no longer the run's, `LedgerUnavailable`.
    """
    wanted, base = changed, entry
    while (swapped := swap(store, wanted, base, attempt)) is None:
        stored = store.get(entry.key)
        current = stored.entry if stored else None
        if current is not None and current.claim_id == entry.claim_id:
            if is_same_write(current, wanted):
                return current  # an earlier try of this very write, whose confirmation was lost
            if _may_go_on(changed, entry, current):
                wanted, base = rebased(changed, current, _LEASE), current
                continue
        if changed.has_left() and (current is None or current.version < entry.version):
            return _restored(store, changed, entry, current, attempt)
        raise lost(entry, current)
    return swapped


def _may_go_on(changed: Entry, entry: Entry, current: Entry) -> bool:
    """Tell whether nobody has acted on ``entry``, and ``changed`` offers nothing whose end is proven meanwhile.

    A provider may tell about an earlier hand-over while the body runs again: what was accepted or refused then
    is not to be offered any more.
    """
    if not (_differs_by_events_only(current, entry) or _deadline_was_seen(current, entry)):
        return False
    known = {delivery.key: delivery.status for delivery in entry.deliveries}
    proven = {d.key for d in current.deliveries if d.is_known() and d.status is not known.get(d.key)}
    offered = {d.key for d in changed.deliveries if d.status is DeliveryStatus.SENDING}
    return not proven & offered


def lost(entry: Entry, current: Entry | None) -> ClaimLost:
    """Return the error of a run whose ``entry`` is outdated; it names the owner of a newer claim, if any."""
    newer = current is not None and current.claim_id != entry.claim_id and current.version > entry.version
    owner = current.owner if current is not None and newer else None
    return ClaimLost(f"{entry.email_type}: the claim on {entry.key} is no longer this run's", owner)


def stands(current: Entry, entry: Entry) -> bool:
    """Tell whether the claim on ``entry`` still stands in ``current``: nobody has acted on it since."""
    same = current.claim_id == entry.claim_id and current.generation == entry.generation
    return same and current.status in (*IN_FLIGHT, Status.IN_DOUBT, Status.RELEASED)


def is_same_write(stored: Entry, wanted: Entry) -> bool:
    """Tell whether ``stored`` is what writing ``wanted`` makes: an earlier try, whose confirmation was lost.

    The provider may have told something since, which is kept beside the deliveries.
    """
    return (
        stored.version > wanted.version
        and all(
            getattr(stored, name) == getattr(wanted, name)
            for name in ("status", "generation", "attempts", "result", "unfinished")
        )
        and without_events(stored.deliveries) == without_events(wanted.deliveries)
    )


def _differs_by_events_only(current: Entry, entry: Entry) -> bool:
    """Tell whether webhook events are the only difference: no other run has changed the entry."""
    return (
        current.version > entry.version
        and (current.status, current.generation, current.attempts)
        == (entry.status, entry.generation, entry.attempts)
        and without_events(current.deliveries) == without_events(entry.deliveries)
    )


def _deadline_was_seen(current: Entry, entry: Entry) -> bool:
    """Tell whether all that happened to ``entry`` is that somebody saw its deadline pass.

    Nobody has claimed since, so this run may go on, and the outcome that it knows counts after all.
    """
    if not stands(current, entry) or current.attempts != entry.attempts:
        return False
    if current.status is Status.IN_DOUBT:
        return entry.status is Status.SENDING
    return current.status is Status.RELEASED and entry.status in IN_FLIGHT


def _restored(
    store: Store, changed: Entry, entry: Entry, current: Entry | None, attempt: Attempt | None
) -> Entry:
    """Write ``changed`` although the store has forgotten ``entry``, as after a failover or from a backup.

    This process knows what has left it. First the claim is made anew, in what the store has now; whoever
    has claimed since, and is in a hand-over, is left alone.
    """
    base = _claimed_anew(store, changed, entry, current)
    logger.error("%s: the store had forgotten %s, written anew", entry.email_type, entry.key)
    rows = merged(base, changed.deliveries)
    return write(store, replace(changed, created_at=base.created_at, deliveries=rows), base, attempt)


def _claimed_anew(store: Store, changed: Entry, entry: Entry, current: Entry | None) -> Entry:
    claim = replace(changed, status=Status.CLAIMED, deadline=After(_LEASE), history=())
    if current is None:
        base = store.insert(replace(claim, version=1, created_at=After(), deliveries=())).entry
        if base.claim_id != entry.claim_id:
            raise lost(entry, base)
        return base
    if current.status is Status.SENDING and current.claim_id != entry.claim_id:
        raise lost(entry, current)
    since = replace(
        claim,
        created_at=current.created_at,
        history=current.history,
        deliveries=merged(current, changed.deliveries),
    )
    swapped = swap(store, since, current)
    if swapped is None:
        raise lost(entry, current)
    return swapped


MAX_ROUNDS = 16
"""How often who may decide anew looks again when others change the entry under it."""


def swap(store: Store, changed: Entry, entry: Entry, attempt: Attempt | None = None) -> Entry | None:
    """Write ``changed`` in place of ``entry``, with the rows that differ; None if it is no longer there.

    Raises `TransitionForbidden` for a change of status that `TRANSITIONS` does not have, `LedgerUnavailable`.
    """
    if changed.status not in TRANSITIONS[entry.status]:
        raise TransitionForbidden(
            f"{entry.key}: {entry.status} may not become {changed.status}; nothing was written"
        )
    changed = provider_offers.key_for_storage(changed)
    before = frozenset(entry.deliveries)
    rows = [delivery for delivery in changed.deliveries if delivery not in before]
    changed = replace(changed, history=attempts.with_attempt(changed, attempt))
    stored = store.swap(changed, entry.version, attempt, rows)
    return stored.entry if stored else None
