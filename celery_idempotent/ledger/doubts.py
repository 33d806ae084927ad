"""Doubts about a hand-over: how an entry gets into one, who may end it, and the entry afterwards."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from typing import Any

from .audit import Intervention, with_decision
from .entry import After, Delivery, Entry, Moment
from .policy import Policy, Verdict
from .status import DeliveryStatus, Status

logger = logging.getLogger("celery_idempotent")

_AGAIN = "offered again in doubt"
"""The action in the audit."""


def doubtful(entry: Entry) -> Entry:
    """Return ``entry`` in doubt, with what was being handed over and of which the provider has told nothing.

    It keeps its send deadline: until then the server may be at work on it, whatever this side knows.
    """
    rows = tuple(
        replace(d, status=d.proven_status() if d.events else DeliveryStatus.IN_DOUBT)
        if d.status is DeliveryStatus.SENDING
        else d
        for d in entry.deliveries
    )
    return replace(found_out(entry, rows), status=Status.IN_DOUBT, deadline=doubt_until(entry))


def doubt_until(entry: Entry) -> Moment | None:
    """Return until when the server may be at what is in doubt of ``entry``: not sent is a guess before that."""
    return entry.deadline if entry.status in (Status.SENDING, Status.IN_DOUBT) else None


def found_out(entry: Entry, rows: tuple[Delivery, ...]) -> Entry:
    """Return ``entry`` with ``rows`` in place of its deliveries; a new acceptance among them counts."""
    new = any(
        row.status is DeliveryStatus.ACCEPTED and row.status is not was.status
        for row, was in zip(rows, entry.deliveries, strict=True)
    )
    return replace(entry, deliveries=rows, sent_at=After() if new else entry.sent_at)


def rules_verdict(entry: Entry, policy: Policy) -> Verdict:
    """Ask the task's rules about an entry in doubt; a verifier that raises, or gives no verdict, is unknown."""
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


def is_left_to_rules(entry: Entry, policy: Policy) -> bool:
    """Tell whether the task's own ``in_doubt`` can settle this doubt, so that the task is to come back for it.

    With "resend" once in a generation: a server whose replies always get lost takes a copy each time.
    """
    if policy.in_doubt == "resend":
        return not any(one.action == _AGAIN and one.generation == entry.generation for one in entry.audit)
    return callable(policy.in_doubt)


def resolved_by_rules(entry: Entry, said: Verdict, policy: Policy, now: datetime) -> Entry:
    """Return ``entry``, in doubt, as what the task's rules ``said`` settles it, with that in its audit."""
    if said is Verdict.SENT:
        status, action = DeliveryStatus.ACCEPTED, "resolved as sent"
    else:
        status, action = DeliveryStatus.DEFERRED, _AGAIN
    reason = 'in_doubt="resend"' if policy.in_doubt == "resend" else f"the verifier says: {said.value}"
    one = Intervention(action, "in_doubt", reason, now, entry.generation, entry.status)
    return replace(resolved(entry, status), audit=with_decision(entry.audit, one))


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


def found_sent(entry: Entry) -> Entry:
    """Return ``entry``, whose doubt has ended, as SENT without a result: nobody has seen its body end.

    A body that the ledger cannot see into has no steps that could be told apart, so it is not to be run again.
    Any other is unfinished; it alone of what is SENT has a deadline, so that stores find it among the others.
    """
    unfinished = bool(entry.deliveries)
    since = After() if unfinished else None
    return replace(entry, status=Status.SENT, deadline=since, result=None, unfinished=unfinished)
