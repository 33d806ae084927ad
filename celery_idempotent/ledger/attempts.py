"""The record of hand-overs: an `Attempt` is written before each, and finished after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .entry import After, Attempt, Delivery, Entry
from .policy import Claimant, Policy
from .status import DeliveryStatus


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
