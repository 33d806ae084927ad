"""An email's situation in words for the command line, with the commands that decide about it."""

from __future__ import annotations

from datetime import datetime

from ..ledger.entry import Entry
from ..ledger.situations import LABELS, advise, find_situation

_TYPED = {
    "resolve_sent": "resolve {key} --sent",
    "resolve_not_sent": "resolve {key} --not-sent",
    "reopen": "reopen {key}",
    "release": "release {key}",
    "cancel": "cancel {key}",
}


def advise_with_commands(entry: Entry, now: datetime) -> str:
    """Return what happens next to ``entry``, and a line to type for each decision that is possible."""
    decisions = find_situation(entry, now).decisions
    width = max((len(LABELS[name]) for name in decisions), default=0)
    typed = {name: f"manage.py idempotency {_TYPED[name]} --reason '…'" for name in decisions}
    lines = [f"  {LABELS[name].ljust(width)}  {line.format(key=entry.key)}" for name, line in typed.items()]
    return "\n".join([advise(entry, now), *lines])
