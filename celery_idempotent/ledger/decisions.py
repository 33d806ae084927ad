"""Decisions of operators about an entry, each of them audited and one compare-and-swap.

Nothing that could still be running is touched: a claim within its lease and a hand-over before its send
deadline are refused, by the store's clock. Before that, no doubt is settled as not sent: the server may be at
it still, though the worker has given up. A decision is about the entry that the operator looked at; if that has
changed since, it is refused as well.

The claim's id is never changed here, so that a process which comes back late learns that it has lost its claim,
not that another run of itself has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..exceptions import EntryChanged, InterventionRefused
from .addresses import mask_all, printable
from .attempts import attempt_ended
from .audit import Intervention, with_decision
from .doubts import doubtful, found_sent, resolved
from .entry import After, Attempt, Entry
from .erasure import forgotten
from .generations import reopened
from .ledger import Ledger
from .policy import Verdict
from .situations import find_situation
from .status import FINISHED, IN_FLIGHT, DeliveryStatus, Status
from .store import Stored
from .writes import swap

_LONGEST_ACTOR = 150
LONGEST_REASON = 500
_OWED = (DeliveryStatus.DEFERRED, DeliveryStatus.IN_DOUBT)


class Operator:
    """Somebody who decides, and why. Each method returns the entry as it is stored and shown then.

    Raises `InterventionRefused` if actor or reason is empty. The methods raise it where the decision does not
    fit, `EntryChanged` if somebody was faster, and `LedgerUnavailable`.
    """

    def __init__(self, ledger: Ledger, actor: str, reason: str) -> None:
        self.ledger = ledger
        self.store = ledger.store
        self.actor = printable(str(actor or "").strip())[:_LONGEST_ACTOR]
        self.reason = printable(mask_all(str(reason or "").strip()))[:LONGEST_REASON]
        for name, value in (("actor", self.actor), ("reason", self.reason)):
            if not value:
                raise InterventionRefused(f"{name} is empty: the audit has to say who decided, and why")

    def resolve(self, entry: Entry, verdict: Verdict) -> Entry:
        """Settle a doubt: as SENT, the email is done; as NOT_SENT, the next call offers it again.

        A body that was cut off is finished by its own task, when that is delivered again. Recipients still
        owed the mail keep the entry from being SENT; it is RELEASED for them.
        """
        if verdict is Verdict.UNKNOWN:
            raise InterventionRefused("a doubt is resolved as sent or as not sent")
        stored = self._look(
            entry, (Status.IN_DOUBT, Status.SENDING), "is not in doubt, so there is nothing to resolve"
        )
        found, attempt = stored.entry, None
        if verdict is Verdict.NOT_SENT and found.is_running(stored.now):
            raise InterventionRefused(
                f"the mail server may still take {named(found)} for another "
                f"{found.remaining(stored.now):.0f} s by the store's clock. Wait until then and look again"
            )
        if found.status is Status.SENDING:
            attempt = attempt_ended(found, DeliveryStatus.IN_DOUBT)
        in_doubt = doubtful(found)
        if verdict is Verdict.NOT_SENT:
            changed = resolved(in_doubt, DeliveryStatus.DEFERRED)
            changed = replace(changed, status=Status.RELEASED, deadline=None)
            return self._write("resolved as not sent", changed, stored, attempt)
        changed = resolved(in_doubt, DeliveryStatus.ACCEPTED)
        changed = replace(changed, sent_at=After())
        if any(delivery.status in _OWED for delivery in changed.deliveries):
            changed = replace(changed, status=Status.RELEASED, deadline=None, result=None)
        else:
            changed = found_sent(changed)
        return self._write("resolved as sent", changed, stored, attempt)

    def cancel(self, entry: Entry) -> Entry:
        """Withdraw what has not been sent: calls are answered as duplicates without a result from now on.

        Those of a task with a window are, until that has passed since.
        """
        allowed = (Status.CLAIMED, Status.RELEASED, Status.FAILED)
        stored = self._look(entry, allowed, "cannot be withdrawn any more")
        return self._write("cancelled", replace(stored.entry, status=Status.CANCELLED, deadline=None), stored)

    def release(self, entry: Entry) -> Entry:
        """Free a key that blocks: a claim whose lease has passed, or one that is kept for a retry."""
        stored = self._look(entry, (Status.CLAIMED, Status.RELEASED), "has no claim that could be released")
        if stored.entry.deadline is None:
            raise InterventionRefused(f"{named(entry)} is free already. The next call gets it")
        return self._write("released", replace(stored.entry, status=Status.RELEASED, deadline=None), stored)

    def reopen(self, entry: Entry) -> Entry:
        """Allow one new sending, by the next call of a task that has not taken part: a new generation."""
        stored = self._finished(entry)
        return self._write("reopened", reopened(stored.entry), stored)

    def resend(self, entry: Entry, task_id: str, seconds: float) -> Entry:
        """Open a new generation for the task ``task_id``, which has ``seconds`` to come before others may."""
        stored = self._finished(entry)
        changed = replace(reopened(stored.entry), owner=task_id, deadline=After(seconds))
        return self._write("resend", changed, stored)

    def forget(self, entry: Entry, digest: str, words: Sequence[str]) -> Entry:
        """Erase the recipient ``digest``, whom ``words`` show, from what is finished. The key stays closed."""
        stored = self._finished(entry)
        return self._write("recipient forgotten", forgotten(stored.entry, digest, words), stored)

    def take_back(self, opened: Entry, found: Entry) -> Entry:
        """Undo a `resend` whose task could not be published: ``found`` counts again."""
        stored = self._look(opened, (Status.RELEASED,), "has been claimed meanwhile")
        return self._write("resend taken back", replace(found, audit=opened.audit), stored)

    def _finished(self, entry: Entry) -> Stored:
        return self._look(entry, FINISHED, "is not finished")

    def _look(self, entry: Entry, allowed: Collection[Status], complaint: str) -> Stored:
        """Return the entry with the store's clock, if it is as the operator saw it and nobody is at work."""
        stored = self.store.get(entry.key)
        if stored is None or stored.entry.version != entry.version:
            raise changed_meanwhile(entry, stored.entry if stored else None)
        found, now = stored.entry, stored.now
        if found.status in IN_FLIGHT and found.is_running(now):
            raise InterventionRefused(
                f"{named(found)} may be at work right now, for another {found.remaining(now):.0f} s "
                "by the store's clock. Wait until then and look again"
            )
        if found.status not in allowed:
            raise InterventionRefused(f"{named(found)} {complaint}. {find_situation(found, now).suggestion}")
        return stored

    def _write(self, action: str, changed: Entry, stored: Stored, attempt: Attempt | None = None) -> Entry:
        found = stored.entry
        one = Intervention(action, self.actor, self.reason, stored.now, found.generation, found.status)
        audited = replace(changed, audit=with_decision(changed.audit, one))
        written = swap(self.store, audited, found, attempt)
        if written is None:
            again = self.store.get(found.key)
            raise changed_meanwhile(found, again.entry if again else None)
        self.ledger.show(written)
        return written


def named(entry: Entry) -> str:
    """Return how an entry is called in a message."""
    return f"{entry.email_type} {entry.key[:18]}… ({entry.label}), {entry.status.value.replace('_', ' ')},"


def changed_meanwhile(entry: Entry, current: Entry | None) -> EntryChanged:
    """Return the error that tells what became of ``entry``."""
    if current is None:
        return EntryChanged(f"{named(entry)} is no longer in the ledger. Nothing was changed by this decision")
    last = current.audit[-1] if len(current.audit) > len(entry.audit) else None
    by = f" ({last.action} by {last.actor})" if last else ""
    status = current.status.value.replace("_", " ")
    return EntryChanged(
        f"{named(entry)} has changed since it was looked at{by}: it is {status} now, in generation "
        f"{current.generation}. Nothing was changed by this decision; look again"
    )
