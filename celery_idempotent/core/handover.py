"""What an entry becomes by a hand-over, ahead of it and by what was answered; each with its attempt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from . import attempts, offers
from .deliveries import merged
from .doubts import doubt_until
from .entry import After, Attempt, Delivery, Entry
from .offers import Offer
from .outcomes import Asker, Policy, Reply, Target
from .status import DeliveryStatus, Status


def begun(
    entry: Entry, targets: Iterable[Target], message_id: str, asker: Asker, policy: Policy, offer: Offer | None
) -> tuple[Entry, Attempt]:
    """Return ``entry`` with one message on its way to ``targets``, recognisable by ``offer``."""
    rows = [Delivery(part, who, DeliveryStatus.SENDING, message_id) for part, who in targets]
    changed = replace(_sending(offers.opened(entry, offer), policy), deliveries=merged(entry, rows))
    return changed, attempts.begun(changed, asker, rows)


def begun_again(
    entry: Entry, asker: Asker, policy: Policy, served: Iterable[Target] | None = None
) -> tuple[Entry, Attempt]:
    """Return ``entry`` with what is in doubt on its way once more, under its provider key; None: to all."""
    places = None if served is None else {(part, who.digest) for part, who in served}
    changed = _sending(offers.again(entry, places), policy)
    rows = [delivery for delivery in changed.deliveries if delivery.status is DeliveryStatus.SENDING]
    return changed, attempts.begun(changed, asker, rows)


def _sending(entry: Entry, policy: Policy) -> Entry:
    return replace(
        entry, status=Status.SENDING, deadline=After(policy.send_timeout), attempts=entry.attempts + 1
    )


def answered(
    entry: Entry, replies: Mapping[Target, Reply], message_id: str, asker: Asker, policy: Policy
) -> tuple[Entry, Attempt]:
    """Return ``entry`` with the ``replies`` to a hand-over, or with refusals that came before it."""
    rows, before = [], offers.before(entry)
    for (part, who), said in replies.items():
        reply = offers.settled(before, (part, who.digest), said)
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
    changed = offers.after(changed, accepted)
    return changed, attempts.answered(changed, asker, rows)
