"""Generations of a key: who takes part in one, and when its email may be sent once more as the next."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta

from .entry import After, Entry
from .policy import Claimant, Policy, SendRequest
from .status import FINISHED, Status

logger = logging.getLogger("celery_idempotent")

_MAX_PARTICIPANTS = 256
"""Task ids that an entry remembers of its generation, and duplicates of all earlier ones."""
_MAX_SENDERS = 128
"""Earlier generations whose last owner it remembers besides."""


def with_participant(entry: Entry, task_id: str) -> tuple[str, ...]:
    """Return the participants with ``task_id``, the oldest left out where there are too many."""
    if task_id in entry.participants:
        return entry.participants
    return (*entry.participants, task_id)[-_MAX_PARTICIPANTS:]


def may_send_again(entry: Entry, now: datetime, claimant: Claimant, policy: Policy) -> bool:
    """Tell whether ``claimant`` opens a new generation: the window has passed, or the task's rule says so."""
    return window_has_passed(entry, now, claimant, policy) or _rule_allows(entry, now, claimant, policy)


def window_has_passed(entry: Entry, now: datetime, claimant: Claimant, policy: Policy) -> bool:
    """Tell whether the window has passed since the last acceptance, for a task that did not take part.

    For what was withdrawn, since that. Also where the run that had it accepted never came to its end; not while
    somebody is at work, nor in doubt: that waits for a decision.
    """
    since = _counts_from(entry)
    if policy.window is None or since is None:
        return False
    if entry.status in (Status.CLAIMED, Status.RELEASED):
        idle = not entry.is_running(now)
    else:
        idle = entry.status in FINISHED
    passed = now >= since + timedelta(seconds=policy.window)
    return idle and passed and not entry.has_participant(claimant.task_id)


def _counts_from(entry: Entry) -> datetime | None:
    """Return the last acceptance; for what is CANCELLED its cancellation, if an event has proven none since."""
    accepted = entry.sent_at if isinstance(entry.sent_at, datetime) else None
    if entry.status is not Status.CANCELLED:
        return accepted
    # The audit keeps the newest decisions: if the one that withdrew it is gone, the oldest of them came later.
    oldest = entry.audit[0].at if entry.audit else None
    # A resend that was taken back is in there as well, about the generation that did not come to be.
    own = (one for one in reversed(entry.audit) if one.generation == entry.generation)
    withdrawn = next((one.at for one in own if one.found is not Status.CANCELLED), oldest)
    return max(withdrawn, accepted or withdrawn) if withdrawn else None


def _rule_allows(entry: Entry, now: datetime, claimant: Claimant, policy: Policy) -> bool:
    """Ask ``allow_send``; a rule that raises, or answers with anything but True, says no."""
    finished = entry.status in (Status.SENT, Status.FAILED)
    if policy.allow_send is None or not finished or entry.has_participant(claimant.task_id):
        return False
    try:
        said = policy.allow_send(entry, SendRequest(claimant.task_id, claimant.args, claimant.kwargs, now))
    except Exception:
        logger.exception("allow_send of %s raised, which counts as no", entry.email_type)
        return False
    if said is not None and not isinstance(said, bool):
        logger.error("allow_send of %s returned a %s, which counts as no", entry.email_type, type(said))
    return said is True


def next_generation(entry: Entry) -> Entry:
    """Return ``entry`` at the start of another deliberate sending: nobody has got anything yet.

    The result stays until there is another: whoever took part before is answered with it.
    """
    return replace(
        entry,
        generation=entry.generation + 1,
        attempts=0,
        deliveries=(),
        history=(),
        participants=(),
        past=_remembered(entry),
        begun_at=After(),
        sent_at=None,
        unfinished=False,
    )


def _remembered(entry: Entry) -> tuple[str, ...]:
    """Return who took part so far: duplicates, then the last owner of each generation; the newest last in both.

    However many duplicates there are, they do not push those out who have sent. Each generation has left one
    owner, so the number of generations tells where those begin.
    """
    begin = max(len(entry.past) - min(entry.generation - 1, _MAX_SENDERS), 0)
    senders = tuple(dict.fromkeys((*entry.past[begin:], entry.owner)))[-_MAX_SENDERS:]
    known = set(senders)
    others = dict.fromkeys(one for one in (*entry.past[:begin], *entry.participants) if one not in known)
    return (*tuple(others)[-_MAX_PARTICIPANTS:], *senders)


def reopened(entry: Entry) -> Entry:
    """Return ``entry`` in a new generation that nobody has claimed yet."""
    return replace(next_generation(entry), status=Status.RELEASED, deadline=None, error="")
