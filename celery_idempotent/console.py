"""Entries as text for people, and as plain data for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from .core.audit import as_rows
from .core.entry import Attempt, Entry
from .core.status import Status

COMMAND = "manage.py idempotency"


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return ``rows`` below ``headings``, in columns."""
    lines = [list(headings), *([text(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    drawn = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in drawn)


def text(value: Any) -> str:
    """Return ``value`` as a cell of a table: times to the second, in UTC with a Z; nothing as ``-``."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        aware = value.tzinfo is not None
        return f"{(value.astimezone(timezone.utc) if aware else value):%Y-%m-%d %H:%M:%S}{'Z' if aware else ''}"
    return str(getattr(value, "value", value)).replace("in_doubt", "in doubt")


def plain(entry: Entry, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return all of ``entry`` as JSON has it."""
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


def moment(value: Any) -> str | None:
    """Return a time as ISO 8601."""
    return value.isoformat() if isinstance(value, datetime) else None


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def page(entry: Entry, attempts: Sequence[Attempt], now: datetime) -> str:
    """Return everything about ``entry``, and what can be done."""
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
        parts.append(table(("recipient", "told later", "at"), events))
    if entry.audit:
        audit = ((a.at, a.action, a.actor, a.generation, a.reason) for a in entry.audit)
        parts.append(table(("decided", "what", "who", "generation", "why"), audit))
    parts.append(what_now(entry, now))
    return "\n\n".join(parts)


def _attempts(attempts: Sequence[Attempt]) -> str:
    headings = ("attempt", "outcome", "began", "ended", "recipients", "code", "said", "task id", "worker")
    names = ("outcome", "started_at", "ended_at", "recipients", "code", "detail", "task_id", "worker")
    rows = ((f"{a.generation}.{a.number}", *(getattr(a, name) for name in names)) for a in attempts)
    return table(headings, rows)


def what_now(entry: Entry, now: datetime) -> str:
    """Return what happens next, or what somebody has to do."""
    running = isinstance(entry.deadline, datetime) and entry.deadline > now
    command = f"`{COMMAND} {{}} {entry.key} --reason …`".format
    until = f" until {text(entry.deadline)} by the ledger's clock"
    match entry.status:
        case Status.SENT if entry.unfinished:
            return (
                "Sent, but its task was cut off before the end of its body: later messages may be missing. "
                f"When task {entry.owner} is delivered again, it finishes the body. Other calls are duplicates."
            )
        case Status.SENT:
            return (
                "Done. Calls are answered with this result. To send it once more: task.resend(…) in your code, "
                f"or {command('reopen')} and call the task again."
            )
        case Status.CLAIMED if running:
            return f"A worker is preparing it{until}. Nothing to do."
        case Status.CLAIMED:
            return (
                "Its worker shows no sign of life. The sweep will release it, and the next call takes it over."
            )
        case Status.SENDING if running:
            return f"It is being handed over{until}. Nothing to do."
        case Status.SENDING:
            return f"The hand-over has passed its deadline. `{COMMAND} sweep` will call it in doubt."
        case Status.RELEASED if running:
            return f"It waits for its own retry{until}. {command('release')} gives it to the next call."
        case Status.RELEASED:
            return f"The next call sends it. If it must not go out: {command('cancel')}."
        case Status.FAILED:
            return (
                "Given up. Call the task again, and it is tried again for those who have not got it, but for "
                f"those who were refused for good. {command('reopen')} offers it to everybody anew."
            )
        case Status.CANCELLED:
            return (
                "Withdrawn: calls succeed without sending; if the task has a window, until that has passed "
                f"since. {command('reopen')} allows it again."
            )
    wait = f"The mail server may be at it{until}: --not-sent has to wait. " if running else ""
    return f"{wait}{_look(entry)}, then:\n" + "\n".join(
        f"  {COMMAND} resolve {entry.key} {verdict} --reason '…'" for verdict in ("--sent     ", "--not-sent ")
    )


def _look(entry: Entry) -> str:
    if not entry.deliveries:
        return (
            "Nobody knows what its body has done before it was cut off, so it is not run again until somebody "
            "decides. Look where it leaves its traces"
        )
    return (
        "Nobody knows whether the mail server took it, so nothing is sent until somebody decides. Look for the "
        "Message-ID in the mail server's log"
    )
