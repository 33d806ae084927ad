"""An entry as a page of text for people, and as plain data for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from ..ledger.audit import as_rows
from ..ledger.entry import Attempt, Entry
from ..ledger.situations import LABELS, find_situation
from .tables import moment, table, text

_TYPED = {
    "resolve_sent": "resolve {key} --sent",
    "resolve_not_sent": "resolve {key} --not-sent",
    "reopen": "reopen {key}",
    "release": "release {key}",
    "cancel": "cancel {key}",
}
"""The subcommand for each decision of `LABELS`."""


def plain(entry: Entry, attempts: Sequence[Attempt]) -> dict[str, object]:
    """Return all facts of ``entry`` as data for JSON."""
    names = (
        "key", "email_type", "label", "owner", "version", "generation", "attempts", "arrivals", "result",
        "error", "fingerprint", "unfinished",
    )  # fmt: skip
    times = ("created_at", "begun_at", "sent_at", "deadline")
    return {
        "status": entry.status.value,
        **{name: getattr(entry, name) for name in names},
        **{name: moment(getattr(entry, name)) for name in times},
        "participants": [*entry.past, *entry.participants],
        "deliveries": [
            {
                "part": d.part,
                "recipient": d.recipient.shown,
                "status": d.status.value,
                "message_id": d.message_id,
                "code": d.code,
                "detail": d.detail,
                "events": [{"kind": kind, "at": moment(at)} for kind, at in d.events],
            }
            for d in entry.deliveries
        ],
        "send_attempts": [
            {
                "generation": a.generation,
                "number": a.number,
                "outcome": a.outcome.value,
                "task_id": a.task_id,
                "worker": a.worker,
                "message_id": a.message_id,
                "recipients": a.recipients,
                "started_at": moment(a.started_at),
                "ended_at": moment(a.ended_at),
                "code": a.code,
                "detail": a.detail,
            }
            for a in attempts
        ],
        "audit": as_rows(entry.audit),
    }


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def page(entry: Entry, attempts: Sequence[Attempt], now: datetime) -> str:
    """Return the page of ``entry``: all facts, what happens next, and the commands that can be typed."""
    facts = [
        ("key", entry.key),
        ("status", f"{text(entry.status)}{f' ({entry.error})' if entry.error else ''}"),
        ("task id", entry.owner),
        ("generation", entry.generation),
        ("attempts", f"{entry.attempts} in this generation; asked for {_times(entry.arrivals)}"),
        ("first seen", entry.created_at),
        ("sent", entry.sent_at),
        ("unfinished since" if entry.unfinished else "deadline", entry.deadline),
        ("result", None if entry.result is None else json.dumps(entry.result, ensure_ascii=False)),
    ]
    width = max(len(name) for name, _ in facts)
    parts = [f"{entry.email_type}  {entry.label}"]
    parts.append("\n".join(f"  {name.ljust(width)}  {text(value)}" for name, value in facts))
    if attempts:
        parts.append(_attempts(attempts))
    if entry.deliveries:
        rows = ((d.recipient.shown, d.status, d.code, d.detail, d.message_id) for d in entry.deliveries)
        parts.append(table(("recipient", "status", "code", "said", "Message-ID"), rows))
    if events := [(d.recipient.shown, kind, at) for d in entry.deliveries for kind, at in d.events]:
        parts.append(table(("recipient", "webhook event", "at"), events))
    if entry.audit:
        audit = ((a.at, a.action, a.actor, a.generation, a.reason) for a in entry.audit)
        parts.append(table(("decided", "what", "who", "generation", "why"), audit))
    parts.append(_next_steps(entry, now))
    return "\n\n".join(parts)


def _attempts(attempts: Sequence[Attempt]) -> str:
    headings = ("attempt", "outcome", "began", "ended", "recipients", "code", "said", "task id", "worker")
    names = ("outcome", "started_at", "ended_at", "recipients", "code", "detail", "task_id", "worker")
    rows = ((f"{a.generation}.{a.number}", *(getattr(a, name) for name in names)) for a in attempts)
    return table(headings, rows)


def _next_steps(entry: Entry, now: datetime) -> str:
    """Return what happens next to ``entry``, and a line to type for each decision that is possible."""
    found = find_situation(entry, now)
    width = max((len(LABELS[name]) for name in found.decisions), default=0)
    typed = {name: f"manage.py idempotency {_TYPED[name]} --reason '…'" for name in found.decisions}
    lines = [f"  {LABELS[name].ljust(width)}  {line.format(key=entry.key)}" for name, line in typed.items()]
    return "\n".join([found.advice, *lines])
