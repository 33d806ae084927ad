"""The one table of an operator's situations: what an email is in, what happens next, what can be decided.

The command, the admin and the refusals of `decisions` show these texts, so that all of them say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from .entry import Entry
from .status import Status

LABELS: Mapping[str, str] = {
    "resolve_sent": "It was sent",
    "resolve_not_sent": "It was not sent: offer it again",
    "reopen": "Allow one more sending",
    "release": "Release the key",
    "cancel": "Withdraw it",
}
"""The decisions, by name, as an operator reads them."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One row of the table. In its texts, ``{until}`` is the deadline and ``{owner}`` the task's id."""

    meaning: str
    """What has happened to the email."""
    next: str
    """What happens by itself, or by the next call."""
    decisions: tuple[str, ...] = ()
    """Names of `LABELS`: the decisions that `Operator` carries out here, and no others."""

    @property
    def advice(self) -> str:
        """What the email is in and what happens next, in sentences."""
        return f"{self.meaning} {self.next}"

    @property
    def suggestion(self) -> str:
        """What a refused decision is answered with: what happens next, and what can be decided instead."""
        instead = ", ".join(f'"{LABELS[name]}"' for name in self.decisions)
        return self.next + (f" Possible: {instead}" if instead else "")


_DOUBT = Situation(
    "Nobody knows whether the mail server took it. Look for the Message-ID in the mail server's log.",
    "Nothing is sent until somebody decides, or the task's `in_doubt` rule or a provider key settles it.",
    ("resolve_sent", "resolve_not_sent"),
)
_OPAQUE = replace(
    _DOUBT,
    meaning="Nobody knows what its body has done before it was cut off. Look where the body leaves its traces: "
    "the ledger has seen no mail of it.",
)
_DOUBT_WAITS = replace(
    _DOUBT,
    next="The server may still be at it until {until}: that it was not sent can only be said after that.",
    decisions=("resolve_sent",),
)
_RELEASED = Situation("Nobody is at work on it.", "The next call sends it.", ("cancel",))
_PREPARED = Situation("A worker is preparing it.", "Until {until} nothing can be decided.")

_TABLE: Mapping[tuple[Status, str], Situation] = {
    (Status.CLAIMED, "running"): _PREPARED,
    (Status.CLAIMED, ""): Situation(
        "Its worker shows no sign of life.",
        "The next call takes it over, or the sweep releases it.",
        ("release", "cancel"),
    ),
    (Status.SENDING, "running"): replace(_PREPARED, meaning="It is being handed over."),
    (Status.SENDING, "running, opaque"): replace(_PREPARED, meaning="Its body is running."),
    (Status.SENDING, ""): replace(_DOUBT, next="The next call or the sweep finds it in doubt."),
    (Status.SENDING, "opaque"): replace(_OPAQUE, next="The next call or the sweep finds it in doubt."),
    (Status.IN_DOUBT, "running"): _DOUBT_WAITS,
    (Status.IN_DOUBT, "running, opaque"): replace(_DOUBT_WAITS, meaning=_OPAQUE.meaning),
    (Status.IN_DOUBT, ""): _DOUBT,
    (Status.IN_DOUBT, "opaque"): _OPAQUE,
    (Status.SENT, ""): Situation(
        "Done.",
        "Calls are answered with this result. To send it once more, use task.resend(…) in your code; or allow "
        "one more sending, and call the task again.",
        ("reopen",),
    ),
    (Status.SENT, "unfinished"): Situation(
        "Sent, but its task was cut off before the end of its body: later messages may be missing.",
        "When task {owner} is delivered again, it finishes the body. Other calls are duplicates.",
        ("reopen",),
    ),
    (Status.RELEASED, "running"): Situation(
        "It waits for its own retry, by task {owner}, until {until}.",
        "If that does not come, the next call sends it.",
        ("release", "cancel"),
    ),
    (Status.RELEASED, "passed"): replace(_RELEASED, decisions=("release", "cancel")),
    (Status.RELEASED, ""): _RELEASED,
    (Status.FAILED, ""): Situation(
        "Given up.",
        "The next call tries again for those who have not got it and were not refused for good. One more "
        "sending, if you allow it, goes to everybody anew.",
        ("reopen", "cancel"),
    ),
    (Status.CANCELLED, ""): Situation(
        "Withdrawn.",
        "Calls succeed without sending; if the task has a window, until that has passed since.",
        ("reopen",),
    ),
}


def _write_in_utc(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z"


def find_situation(entry: Entry, now: datetime, shown: Callable[[datetime], str] = _write_in_utc) -> Situation:
    """Return the row for ``entry`` at ``now``, the store's clock. ``shown`` writes its times."""
    row = _TABLE[entry.status, _find_case(entry, now)]
    until = shown(entry.deadline) if isinstance(entry.deadline, datetime) else "-"
    known = {"until": f"{until} by the ledger's clock", "owner": entry.owner}
    return replace(row, meaning=row.meaning.format_map(known), next=row.next.format_map(known))


def _find_case(entry: Entry, now: datetime) -> str:
    match entry.status:
        case Status.SENT:
            return "unfinished" if entry.unfinished else ""
        case Status.CLAIMED:
            return "running" if entry.is_running(now) else ""
        case Status.RELEASED:
            late = "" if entry.deadline is None else "passed"
            return "running" if entry.is_running(now) else late
        case Status.SENDING | Status.IN_DOUBT:
            named = {"running": entry.is_running(now), "opaque": not entry.deliveries}
            return ", ".join(name for name, applies in named.items() if applies)
    return ""
