"""Events that a provider reports after the hand-over: delivered, bounced, complained, and that it has the mail.

Events are kept beside the status of a delivery and never take a claim away from whoever has it: a bounce does
not undo an acceptance, and an event that comes before the reply does not disturb the run that waits for it.
They settle what nobody knows: a delivery in doubt for which there is an event has reached the provider.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from .audit import Intervention, with_decision
from .deliveries import events_that_still_count, merged
from .doubts import doubtful, found_out, found_sent
from .entry import FAILED, REFUSING, After, Delivery, Entry, Moment
from .status import DeliveryStatus, Status

ACCEPTED = "accepted"
KINDS = frozenset({ACCEPTED, "delivered", "deferred", "bounced", "complained", *REFUSING})
"""The kinds that are kept. Each proves that the provider has the mail."""
_OPEN_TO_PROOF = (DeliveryStatus.IN_DOUBT, DeliveryStatus.DEFERRED)


@dataclass(frozen=True, slots=True)
class Event:
    """One event about one hand-over."""

    kind: str
    """One of `KINDS`."""
    at: datetime
    generation: int
    message: str
    """`mark` of the message."""
    attempt: int
    """Number of the hand-over, as its message carries it."""
    recipient: str
    """Digest of the address it is about; empty where the provider does not say."""
    source: str = ""
    """Which provider tells, for the audit."""
    whole: bool = False
    """The message went as one request: if the provider has it for one recipient, it has it for all."""


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """What an event came to."""

    entry: Entry
    settled: bool = False
    """It was this event that changed the entry's status."""


def mark(message_id: str, begun_at: Moment | None) -> str:
    """Return what stands for a message in places that have little room, or take no address-like text.

    ``begun_at`` is its generation's: what is sent anew after a purge has the same Message-ID, and is another.
    """
    began = int(begun_at.timestamp()) if isinstance(begun_at, datetime) else 0
    return hashlib.sha256(f"{message_id} {began}".encode()).hexdigest()[:16]


def with_event(entry: Entry, event: Event, now: datetime) -> Entry:
    """Return ``entry`` with ``event`` beside its deliveries, and with what it settles; the same if nothing."""
    if event.generation != entry.generation:
        return entry
    event = replace(event, whole=_is_about_all(entry, event))  # once, as there may be thousands of deliveries
    rows = [row for delivery in entry.deliveries if (row := _heard(delivery, entry, event)) is not delivery]
    settled = _settled(replace(entry, deliveries=merged(entry, rows)), now)
    if settled.status in (entry.status, Status.IN_DOUBT):
        return settled
    action = f"proven: {settled.status.value.replace('_', ' ')}"
    one = Intervention(action, event.source, f"event: {event.kind}", now, entry.generation, entry.status)
    return replace(settled, audit=with_decision(settled.audit, one))


def _heard(delivery: Delivery, entry: Entry, event: Event) -> Delivery:
    if mark(delivery.message_id, entry.begun_at) != event.message:
        return delivery
    if delivery.recipient.digest == event.recipient:
        if event.kind in REFUSING and event.attempt < _first(entry) and not delivery.is_known():
            return delivery  # the provider may have taken, or may take, what was handed over since
        return _with_events(delivery, [(event.kind, event.at)])
    if event.whole and _is_open(delivery):
        return _with_events(delivery, [(ACCEPTED, event.at)])
    return delivery


def _is_about_all(entry: Entry, event: Event) -> bool:
    """Tell whether ``event`` proves that the newest hand-over reached the provider, for all its recipients."""
    if not event.whole or event.kind in REFUSING or not _first(entry) <= event.attempt <= entry.attempts:
        return False
    own = [d for d in entry.deliveries if d.recipient.digest == event.recipient]
    return all(_is_open(d) for d in own if mark(d.message_id, entry.begun_at) == event.message)


def _first(entry: Entry) -> int:
    """Return the number of the first attempt with the newest content: later ones may have offered it again."""
    return entry.attempts - max(entry.offers - 1, 0)


def _is_open(delivery: Delivery) -> bool:
    return delivery.status in (DeliveryStatus.SENDING, DeliveryStatus.IN_DOUBT)


def _with_events(delivery: Delivery, more: Iterable[tuple[str, datetime]]) -> Delivery:
    """Return ``delivery`` with ``more``; of each kind the earliest counts."""
    known = dict(delivery.events)
    for kind, at in more:
        known[kind] = min(at, known.get(kind, at))
    events = tuple(sorted(known.items(), key=lambda pair: (pair[1], pair[0])))
    return delivery if events == delivery.events else replace(delivery, events=events)


def _settled(entry: Entry, now: datetime) -> Entry:
    if entry.status is Status.SENDING:
        if entry.is_running(now):
            return entry  # whoever waits for the reply will tell
        late = doubtful(entry)
        if not any(d.events for d in late.deliveries):
            return entry
        entry = late
    rows = tuple(_by_proof(d) if d.status in _OPEN_TO_PROOF else d for d in entry.deliveries)
    if rows == entry.deliveries and entry.status is not Status.IN_DOUBT:
        return entry
    entry = found_out(entry, rows)
    return _out_of_doubt(entry) if entry.status is Status.IN_DOUBT and rows else entry


def _by_proof(delivery: Delivery) -> Delivery:
    status = delivery.proven_status()
    if status is delivery.status or _is_deferred_as_told(delivery):
        return delivery
    return replace(delivery, status=status, detail=f"proven by the provider: {delivery.events[-1][0]}")


def _is_deferred_as_told(delivery: Delivery) -> bool:
    """Tell whether the provider's answer and its events say the same: it has failed, and may be tried again."""
    return delivery.status is DeliveryStatus.DEFERRED and {kind for kind, _ in delivery.events} == {FAILED}


def _out_of_doubt(entry: Entry) -> Entry:
    """Return ``entry`` in the state that its deliveries, none of them in doubt any more, leave it in."""
    statuses = {delivery.status for delivery in entry.deliveries}
    if DeliveryStatus.IN_DOUBT in statuses:
        return entry
    if DeliveryStatus.DEFERRED not in statuses and DeliveryStatus.ACCEPTED in statuses:
        return found_sent(entry)
    status = Status.RELEASED if DeliveryStatus.DEFERRED in statuses else Status.FAILED
    return replace(entry, status=status, deadline=None, result=None)


def _surest(own: Delivery, told: Delivery | None) -> Delivery:
    """Return ``own``, of a run that has missed ``told``; what is known of an end is not undone."""
    if told is not None and told.is_known() and own.status not in (told.status, DeliveryStatus.ACCEPTED):
        return told
    return _with_events(own, events_that_still_count(told, own))


def rebased(changed: Entry, current: Entry, lease: float) -> Entry:
    """Return ``changed``, by a run that has missed ``current``, with its events, what they settle, its audit.

    Where that ends the doubt, it is claimed for ``lease`` seconds. An acceptance counts from wherever it was
    learnt, and only an acceptance.
    """
    told = {d.key: d for d in current.deliveries}
    rows = tuple(_surest(d, told.get(d.key)) for d in changed.deliveries)
    known = tuple(_by_proof(d) if d.status in _OPEN_TO_PROOF else d for d in rows)
    sent_at = changed.sent_at if isinstance(changed.sent_at, After) else current.sent_at
    entry = found_out(replace(changed, deliveries=rows, sent_at=sent_at), known)
    entry = replace(entry, version=current.version, audit=current.audit)
    if changed.status is not Status.IN_DOUBT or not rows or entry.doubtful_deliveries():
        return entry
    return replace(entry, status=Status.CLAIMED, deadline=After(lease))
