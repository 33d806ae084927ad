"""What an entry becomes, and what can be told from one: pure functions that `ledger` decides with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from .audit import MAX_AUDIT, Intervention
from .entry import After, Attempt, Delivery, Entry
from .outcomes import Asker, Policy, Verdict
from .status import DeliveryStatus, Status

MAX_PARTICIPANTS = 256


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
        and [replace(d, events=()) for d in stored.deliveries]
        == [replace(d, events=()) for d in wanted.deliveries]
    )


def has_left(entry: Entry) -> bool:
    """Tell whether a mail server has, or may have, something of ``entry``."""
    if entry.status in (Status.SENT, Status.IN_DOUBT):
        return True  # also of an opaque body, which has no deliveries
    left = (DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT)
    return any(delivery.status in left for delivery in entry.deliveries)


def differs(entry: Entry, asker: Asker) -> bool:
    """Tell whether ``asker`` wants other content than what was sent or is about to be."""
    if entry.status in (Status.FAILED, Status.RELEASED) and not any(
        d.status is DeliveryStatus.ACCEPTED for d in entry.deliveries
    ):
        return False  # nobody has got the old content, so the new one may be the mended one
    known = entry.fingerprint and asker.fingerprint and entry.owner != asker.task_id
    return bool(known and entry.fingerprint != asker.fingerprint)


def blank(asker: Asker) -> Entry:
    """Return an entry for what ``asker`` wants, before anybody has claimed it."""
    return Entry(
        key=asker.key,
        email_type=asker.email_type,
        status=Status.CLAIMED,
        owner=asker.task_id,
        label=asker.label,
        begun_at=After(),
        created_at=After(),
    )


def taken(entry: Entry, claim_id: str, asker: Asker, policy: Policy) -> Entry:
    """Return ``entry`` as claimed by ``asker``; an opaque claim is its own write-ahead."""
    return replace(
        entry,
        claim_id=claim_id,
        status=Status.SENDING if policy.opaque else Status.CLAIMED,
        owner=asker.task_id,
        deadline=After(policy.send_timeout if policy.opaque else policy.lease),
        fingerprint=asker.fingerprint,
        error="",
        unfinished=False,
        attempts=entry.attempts + (1 if policy.opaque else 0),
        participants=with_participant(entry, asker.task_id) if policy.sends_again else entry.participants,
    )


def next_generation(entry: Entry) -> Entry:
    """Return ``entry`` at the start of another deliberate sending: nobody has got anything yet.

    The result stays until there is another: whoever took part before is answered with it.
    """
    before = dict.fromkeys((*entry.past, *entry.participants, entry.owner))
    return replace(
        entry,
        generation=entry.generation + 1,
        attempts=0,
        deliveries=(),
        history=(),
        participants=(),
        past=tuple(before)[-MAX_PARTICIPANTS:],
        begun_at=After(),
        sent_at=None,
        unfinished=False,
    )


def reopened(entry: Entry) -> Entry:
    """Return ``entry`` in a new generation that nobody has claimed yet."""
    return replace(next_generation(entry), status=Status.RELEASED, deadline=None, error="")


def starts_new_generation(entry: Entry, now: datetime, asker: Asker, policy: Policy) -> bool:
    """Tell whether the window has passed since the last acceptance, for a task that did not take part.

    Also where the run that had it accepted never came to its end; not while somebody is at work.
    """
    if policy.window is None or not isinstance(entry.sent_at, datetime):
        return False
    if entry.status in (Status.CLAIMED, Status.RELEASED):
        idle = not running(entry, now)
    else:
        idle = entry.status in (Status.SENT, Status.FAILED)
    passed = now >= entry.sent_at + timedelta(seconds=policy.window)
    return idle and passed and not took_part(entry, asker.task_id)


def found_sent(entry: Entry) -> Entry:
    """Return ``entry``, whose doubt has ended, as SENT without a result: nobody has seen its body end.

    A body that the ledger cannot see into has no steps that could be told apart, so it is not to be run again.
    Any other is unfinished; it alone of what is SENT has a deadline, so that stores find it among the others.
    """
    unfinished = bool(entry.deliveries)
    since = After() if unfinished else None
    return replace(entry, status=Status.SENT, deadline=since, result=None, unfinished=unfinished)


def is_to_finish(entry: Entry, task_id: str) -> bool:
    """Tell whether ``entry`` is SENT, and the task ``task_id`` has still to come to the end of its body."""
    return entry.status is Status.SENT and entry.unfinished and entry.owner == task_id


def took_part(entry: Entry, task_id: str) -> bool:
    """Tell whether the task ``task_id`` took part in this generation or in an earlier one."""
    return task_id == entry.owner or task_id in entry.participants or task_id in entry.past


def with_participant(entry: Entry, task_id: str) -> tuple[str, ...]:
    """Return the participants with ``task_id``, the oldest left out where there are too many."""
    if task_id in entry.participants:
        return entry.participants
    return (*entry.participants, task_id)[-MAX_PARTICIPANTS:]


def running(entry: Entry, now: datetime) -> bool:
    """Tell whether the deadline of ``entry`` is still to come."""
    return isinstance(entry.deadline, datetime) and now < entry.deadline


def remaining(entry: Entry, now: datetime) -> float:
    """Return the seconds until the deadline of ``entry``."""
    assert isinstance(entry.deadline, datetime)
    return (entry.deadline - now).total_seconds()


def doubtful(entry: Entry) -> Entry:
    """Return ``entry`` in doubt, with what was being handed over and of which the provider has told nothing."""
    rows = tuple(
        replace(d, status=proven(d) if d.events else DeliveryStatus.IN_DOUBT)
        if d.status is DeliveryStatus.SENDING
        else d
        for d in entry.deliveries
    )
    return replace(found_out(entry, rows), status=Status.IN_DOUBT, deadline=None)


def found_out(entry: Entry, rows: tuple[Delivery, ...]) -> Entry:
    """Return ``entry`` with ``rows`` in place of its deliveries; a new acceptance among them counts."""
    new = any(
        row.status is DeliveryStatus.ACCEPTED and row.status is not was.status
        for row, was in zip(rows, entry.deliveries, strict=True)
    )
    return replace(entry, deliveries=rows, sent_at=After() if new else entry.sent_at)


FAILED = "failed"
REFUSING = frozenset({"rejected", FAILED})
"""Events of a provider that has taken the mail and will not deliver it to this recipient."""


def proven(delivery: Delivery) -> DeliveryStatus:
    """Return the status of ``delivery`` by what the provider has told, where nothing else is known."""
    kinds = {kind for kind, _ in delivery.events}
    if not kinds:
        return delivery.status
    return DeliveryStatus.REFUSED if kinds <= REFUSING else DeliveryStatus.ACCEPTED


def unsettled(entry: Entry) -> bool:
    """Tell whether there is a delivery whose outcome is not known."""
    open_ones = (DeliveryStatus.SENDING, DeliveryStatus.IN_DOUBT)
    return any(delivery.status in open_ones for delivery in entry.deliveries)


def resolved(entry: Entry, status: DeliveryStatus) -> Entry:
    """Return ``entry`` with its doubtful deliveries settled as ``status``."""
    return replace(
        entry,
        sent_at=After() if status is DeliveryStatus.ACCEPTED else entry.sent_at,
        deliveries=tuple(
            replace(d, status=status, detail="resolved from in doubt")
            if d.status is DeliveryStatus.IN_DOUBT
            else d
            for d in entry.deliveries
        ),
    )


def resolved_by_rules(entry: Entry, verdict: Verdict, policy: Policy, now: datetime) -> Entry:
    """Return ``entry``, in doubt, as the task's ``in_doubt`` settles it, with that in its audit."""
    if verdict is Verdict.SENT:
        status, action = DeliveryStatus.ACCEPTED, "resolved as sent"
    else:
        status, action = DeliveryStatus.DEFERRED, "offered again in doubt"
    reason = 'in_doubt="resend"' if policy.in_doubt == "resend" else f"the verifier says: {verdict.value}"
    one = Intervention(action, "in_doubt", reason, now, entry.generation, entry.status)
    return replace(resolved(entry, status), audit=(*entry.audit, one)[-MAX_AUDIT:])


def merged(entry: Entry, rows: Iterable[Delivery]) -> tuple[Delivery, ...]:
    """Return the deliveries of ``entry`` with ``rows`` in place of those for the same part and recipient.

    What the provider has told about one stays with it, as `still_told` says.
    """
    known = {(d.part, d.recipient.digest): d for d in entry.deliveries}
    for row in rows:
        place = (row.part, row.recipient.digest)
        before = known.get(place)
        known[place] = row if row.events else replace(row, events=still_told(before, row))
    return tuple(known.values())


def still_told(before: Delivery | None, row: Delivery) -> tuple[tuple[str, datetime], ...]:
    """Return the events of ``before`` that count for ``row``, which takes its place.

    That an earlier hand-over failed says nothing about the next one; what was accepted stays so.
    """
    if before is None:
        return ()
    if before.status is DeliveryStatus.DEFERRED and row.status is DeliveryStatus.SENDING:
        return tuple(one for one in before.events if one[0] not in REFUSING)
    return before.events


def begun(entry: Entry, asker: Asker, rows: Sequence[Delivery] = ()) -> Attempt:
    """Return the attempt that hands ``rows`` over."""
    return Attempt(
        number=entry.attempts,
        generation=entry.generation,
        part=rows[0].part if rows else "",
        task_id=asker.task_id,
        worker=asker.worker,
        message_id=rows[0].message_id if rows else "",
        recipients=len(rows),
        started_at=After(),
    )


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


def opaque_begun(entry: Entry, asker: Asker, policy: Policy) -> Attempt | None:
    """Return the attempt that an opaque claim is, or None."""
    return begun(entry, asker) if policy.opaque else None


def ended(entry: Entry, outcome: DeliveryStatus) -> Attempt:
    """Return the end of the newest attempt; who began it stays as it was written then."""
    asker = Asker(entry.key, entry.email_type, entry.owner)
    return replace(begun(entry, asker), ended_at=After(), outcome=outcome)


_WORST_FIRST = (
    DeliveryStatus.IN_DOUBT,
    DeliveryStatus.ACCEPTED,
    DeliveryStatus.DEFERRED,
    DeliveryStatus.REFUSED,
)


def summary(rows: Sequence[Delivery]) -> dict[str, Any]:
    """Return outcome, code and detail of an attempt from those of its recipients."""
    for status in _WORST_FIRST:
        for row in rows:
            if row.status is status:
                return {"outcome": status, "code": row.code, "detail": row.detail}
    return {"outcome": DeliveryStatus.DEFERRED}
