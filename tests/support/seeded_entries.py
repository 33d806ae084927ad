"""Puts the entry of a call into any state, through the ledger itself, as some other run would have left it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_idempotent.conf import conf
from celery_idempotent.ledger.addresses import recipient
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Policy, Verdict
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.stores.factory import get_ledger
from celery_idempotent.testing import hold

POLICY = Policy(lease=60, send_timeout=60)


class Seed:
    """The run of ``task(*args)`` under the task id ``by``."""

    def __init__(self, task: Any, *args: Any, by: str = "seed", **policy: Any) -> None:
        identity = task._identify(args, {})
        self.ledger = get_ledger()
        self.policy = replace(POLICY, **policy)
        self.claimant = Claimant(
            identity.key, task.email_type or task.name, by, "", identity.label, identity.fingerprint
        )
        who = recipient("ann@example.com", conf.recipient_salt, conf.recipients)
        self.targets = [("0", who)]

    def claimed(self) -> Entry:
        """CLAIMED, the lease running."""
        outcome = self.ledger.claim(self.claimant, self.policy)
        assert isinstance(outcome, Acquired), outcome
        return outcome.entry

    def sending(self) -> Entry:
        """SENDING, the deadline running."""
        return hold(self.ledger, self.claimed(), self.claimant, self.policy).begin(self.targets, "<m@seed>")

    def settled(self, status: DeliveryStatus) -> Entry:
        """Handed over with a known outcome, or in doubt."""
        replies = dict.fromkeys(self.targets, Reply(status, 250))
        return hold(self.ledger, self.sending(), self.claimant, self.policy).settle(replies, "<m@seed>")

    def released(self, retry_in: float | None = None) -> Entry:
        """RELEASED, perhaps for a retry of its own."""
        return hold(self.ledger, self.claimed(), policy=self.policy).release(retry_in=retry_in)

    def sent(self, result: Any) -> Entry:
        """SENT with a result."""
        return hold(self.ledger, self.settled(DeliveryStatus.ACCEPTED)).complete(result)

    def unfinished(self) -> Entry:
        """SENT by an operator's word, the body cut off."""
        return Operator(self.ledger, "seed", "it is there").resolve(
            self.settled(DeliveryStatus.IN_DOUBT), Verdict.SENT
        )

    def failed(self, status: DeliveryStatus) -> Entry:
        """FAILED after a hand-over that ended as ``status``."""
        return hold(self.ledger, self.settled(status)).fail("ValueError")

    def cancelled(self) -> Entry:
        """CANCELLED, as an operator would."""
        entry = self.claimed()
        stored = self.ledger.store.swap(replace(entry, status=Status.CANCELLED, deadline=None), entry.version)
        assert stored is not None
        return stored.entry
