"""What an operator can do about an email in each status, in words."""

from __future__ import annotations

from datetime import datetime

from ..ledger.entry import Entry
from ..ledger.status import Status
from .tables import text

COMMAND = "manage.py idempotency"


ADVICE = {
    Status.CLAIMED: "Its worker shows no sign of life. The next call takes it over.",
    Status.SENDING: "The hand-over has passed its deadline: nobody knows how it ended.",
    Status.SENT: "Done. Calls are answered with this result. One more sending is done by the next call of the "
    "task, if you allow it.",
    Status.RELEASED: "Nobody is at work on it. The next call sends it.",
    Status.FAILED: "Given up. The next call tries again for those who have not got it and were not refused for "
    "good. One more sending, if you allow it, goes to everybody anew.",
    Status.IN_DOUBT: "Nobody knows whether the mail server took it, so nothing is sent until you decide. "
    "Look for the Message-ID in the mail server's log.",
    Status.CANCELLED: "Withdrawn. Calls succeed without sending; if the task has a window, until that has "
    "passed since.",
}

OPAQUE = (
    "Nobody knows what its body has done before it was cut off, so it is not run again until you decide. Look "
    "where it leaves its traces: the ledger has seen no mail of it."
)

UNFINISHED = (
    "Sent, but its task was cut off before the end of its body. When that is delivered again, it finishes it; "
    "other calls are duplicates."
)

UNKNOWN = (Status.IN_DOUBT, Status.SENDING)


def advice(entry: Entry) -> str:
    """Return what an operator should know about ``entry`` in its status."""
    return OPAQUE if entry.status in UNKNOWN and not entry.deliveries else hint(entry)


def hint(entry: Entry) -> str:
    """Return the advice for an entry whose hand-overs the ledger has seen."""
    return UNFINISHED if entry.unfinished else ADVICE[entry.status]


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
    return f"{wait}{look_for(entry)}, then:\n" + "\n".join(
        f"  {COMMAND} resolve {entry.key} {verdict} --reason '…'" for verdict in ("--sent     ", "--not-sent ")
    )


def look_for(entry: Entry) -> str:
    """Return where to look for what became of a hand-over in doubt."""
    if not entry.deliveries:
        return (
            "Nobody knows what its body has done before it was cut off, so it is not run again until somebody "
            "decides. Look where it leaves its traces"
        )
    return (
        "Nobody knows whether the mail server took it, so nothing is sent until somebody decides. Look for the "
        "Message-ID in the mail server's log"
    )
