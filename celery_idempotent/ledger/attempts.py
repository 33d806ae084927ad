"""The record of hand-overs: an `Attempt` is written before each, and finished after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import provider_offers
from .deliveries import merged
from .doubts import doubt_until
from .entry import After, Attempt, Delivery, Entry
from .outcomes import Reply, Target
from .policy import Claimant, Policy
from .provider_offers import Offer
from .status import DeliveryStatus, Status


def attempt_begun(entry: Entry, claimant: Claimant, rows: Sequence[Delivery] = ()) -> Attempt:
    """Return the attempt that hands ``rows`` over."""
    return Attempt(
        number=entry.attempts,
        generation=entry.generation,
        part=rows[0].part if rows else "",
        task_id=claimant.task_id,
        worker=claimant.worker,
        message_id=rows[0].message_id if rows else "",
        recipients=len(rows),
        started_at=After(),
    )


def opaque_begun(entry: Entry, claimant: Claimant, policy: Policy) -> Attempt | None:
    """Return the attempt that an opaque claim is, or None."""
    return attempt_begun(entry, claimant) if policy.opaque else None


def attempt_answered(entry: Entry, claimant: Claimant, rows: Sequence[Delivery]) -> Attempt:
    """Return the attempt that has handed ``rows`` over, with what was answered."""
    return replace(attempt_begun(entry, claimant, rows), ended_at=After(), **_summary(rows))


def attempt_ended(entry: Entry, outcome: DeliveryStatus) -> Attempt:
    """Return the end of the newest attempt; who began it stays as it was written then."""
    claimant = Claimant(entry.key, entry.email_type, entry.owner)
    return replace(attempt_begun(entry, claimant), ended_at=After(), outcome=outcome)


def with_attempt(entry: Entry, attempt: Attempt | None) -> tuple[Attempt, ...]:
    """Return the history of ``entry`` with ``attempt``, or with its end where its start is known."""
    if attempt is None:
        return entry.history
    known = {(a.generation, a.number): a for a in entry.history}
    place = (attempt.generation, attempt.number)
    if place in known:
        attempt = replace(
            known[place],
            ended_at=attempt.ended_at,
            outcome=attempt.outcome,
            code=attempt.code,
            detail=attempt.detail,
        )
    return tuple((known | {place: attempt}).values())


_WORST_FIRST = (
    DeliveryStatus.IN_DOUBT,
    DeliveryStatus.ACCEPTED,
    DeliveryStatus.DEFERRED,
    DeliveryStatus.REFUSED,
)


def _summary(rows: Sequence[Delivery]) -> dict[str, Any]:
    """Return outcome, code and detail of an attempt from those of its recipients."""
    for status in _WORST_FIRST:
        for row in rows:
            if row.status is status:
                return {"outcome": status, "code": row.code, "detail": row.detail}
    return {"outcome": DeliveryStatus.DEFERRED}


def begun(
    entry: Entry,
    targets: Iterable[Target],
    message_id: str,
    claimant: Claimant,
    policy: Policy,
    offer: Offer | None,
) -> tuple[Entry, Attempt]:
    """Return ``entry`` with one message on its way to ``targets``, recognisable by ``offer``."""
    rows = [Delivery(part, who, DeliveryStatus.SENDING, message_id) for part, who in targets]
    changed = replace(
        _sending(provider_offers.with_provider_key(entry, offer), policy), deliveries=merged(entry, rows)
    )
    return changed, attempt_begun(changed, claimant, rows)


def begun_again(
    entry: Entry, claimant: Claimant, policy: Policy, served: Iterable[Target] | None = None
) -> tuple[Entry, Attempt]:
    """Return ``entry`` with what is in doubt on its way once more, under its provider key; None: to all."""
    places = None if served is None else {(part, who.digest) for part, who in served}
    changed = _sending(provider_offers.reoffered(entry, places), policy)
    rows = [delivery for delivery in changed.deliveries if delivery.status is DeliveryStatus.SENDING]
    return changed, attempt_begun(changed, claimant, rows)


def _sending(entry: Entry, policy: Policy) -> Entry:
    return replace(
        entry, status=Status.SENDING, deadline=After(policy.send_timeout), attempts=entry.attempts + 1
    )


def answered(
    entry: Entry, replies: Mapping[Target, Reply], message_id: str, claimant: Claimant, policy: Policy
) -> tuple[Entry, Attempt]:
    """Return ``entry`` with the ``replies`` to a hand-over, or with refusals that came before it."""
    rows, before = [], provider_offers.as_before_reoffer(entry)
    for (part, who), said in replies.items():
        reply = provider_offers.settled_reply(before, (part, who.digest), said)
        rows.append(Delivery(part, who, reply.status, message_id, reply.code, reply.detail[:200]))
    deliveries = merged(before, rows)
    doubt = any(delivery.status is DeliveryStatus.IN_DOUBT for delivery in deliveries)
    accepted = any(row.status is DeliveryStatus.ACCEPTED for row in rows)
    # Refused before there was anything to write ahead: an attempt all the same.
    number = entry.attempts if entry.status is Status.SENDING else entry.attempts + 1
    changed = replace(
        entry,
        status=Status.IN_DOUBT if doubt else Status.CLAIMED,
        deadline=doubt_until(entry) if doubt else After(policy.lease),
        attempts=number,
        offers=entry.offers + number - entry.attempts if entry.offers else 0,
        sent_at=After() if accepted else entry.sent_at,
        deliveries=deliveries,
    )
    changed = provider_offers.after_handover(changed, accepted)
    return changed, attempt_answered(changed, claimant, rows)
