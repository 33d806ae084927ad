"""Workers, a broker, one email and a clock, simulated: any schedule is worked off in a moment."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

from celery_idempotent.exceptions import ClaimLost
from celery_idempotent.ledger.deadlines import expire
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Duplicate, Held, Reply
from celery_idempotent.ledger.policy import Claimant, Policy, Verdict
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import hold

START = datetime(2026, 3, 28, 22, tzinfo=timezone.utc)  # a night in which clocks change
LEASE, SEND_TIMEOUT = 60.0, 30.0
REDELIVER = 100.0
"""Seconds until the relay publishes again what is held."""
NEVER = None
TARGET = ("0", Recipient("a", "a***"))


@dataclass(frozen=True)
class Delivery:
    """One delivery of a task's message, and what becomes of its run."""

    task: int
    at: float
    """Seconds after the start."""
    fate: str = "ok"
    renders: float = 0.0
    """Seconds between the claim and the hand-over."""
    sends: float = 0.0
    """Seconds that the hand-over takes."""
    ends: float = 0.0
    """Seconds between the mail server's answer and the end of the body."""
    again: float = 30.0
    """Seconds until the retry of a run that failed, or the redelivery of one that was killed."""
    taken: bool = True
    """Of a hand-over without a reply: whether the mail server took the mail."""
    skew: float = 0.0
    """Seconds by which the clock of its worker is ahead."""
    waits: int = 0
    """How often it has come back already."""


UNANSWERED = ("killed in the hand-over", "reply lost")
FATES = (
    *("ok", "ok", "ok", "fails before", "fails after", "killed before", "killed after"),
    *("lost after", "failed and lost", "gives up"),
    *UNANSWERED,
)


class Host:
    """The clock of the worker whose turn it is, for `host_clock`."""

    moment = START

    def __call__(self) -> datetime:
        return self.moment


HOST = Host()


class World:
    """Workers, a broker, an operator and one email of one customer, worked off step by step.

    ``in_doubt`` is "hold", "resend" or "verifier", who knows what the mail server took. So does the operator,
    who looks at what is held ``decides`` seconds after it got in doubt; `NEVER` leaves it there.
    """

    def __init__(self, window: float, in_doubt: str = "hold", decides: float | None = 0.0) -> None:
        self.now = 0.0
        self.window = window
        self.decides = decides
        self.ledger = Ledger(MemoryStore(lambda: START + timedelta(seconds=self.now)))
        rule: Any = (lambda entry: self._truth()) if in_doubt == "verifier" else in_doubt
        self.policy = Policy(lease=LEASE, send_timeout=SEND_TIMEOUT, window=window, in_doubt=rule)
        self.longest_dither = 1.1
        self.accepted: list[tuple[float, int]] = []
        """When the mail server took a mail, and whose."""
        self.recorded: list[float] = []
        """When the ledger learned of one."""
        self.first_seen: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self._steps: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = count()
        self._dice = random.Random(1)
        self._taken = False

    def at(self, when: float, step: Callable[[], Any]) -> None:
        heapq.heappush(self._steps, (round(when, 6), next(self._order), step))

    def run(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.at(delivery.at, lambda delivery=delivery: self._start(delivery))
        for _ in range(20_000):
            if not self._steps:
                return
            self.now, _, step = heapq.heappop(self._steps)
            step()
        raise AssertionError("it goes on for ever")

    def _start(self, delivery: Delivery) -> None:
        self._go(self._deliver(delivery), delivery.skew)

    def _go(self, body: Iterator[float], skew: float) -> None:
        """Go on with a run until it waits, on a worker whose clock is ``skew`` seconds ahead."""
        HOST.moment = START + timedelta(seconds=self.now + skew)
        for wait in body:
            if wait:
                self.at(self.now + wait, lambda: self._go(body, skew))
                return

    def _dithered(self, wait: float) -> float:
        """Return how long who has to come back waits, as `execution.body` does."""
        return wait * self._dice.uniform(1.0, self.longest_dither) + 0.05

    def _again(self, delivery: Delivery, wait: float) -> None:
        later = replace(delivery, at=self.now + wait)
        self.at(later.at, lambda: self._start(later))

    def _deliver(self, delivery: Delivery) -> Iterator[float]:
        claimant = Claimant("k", "reminder", f"task-{delivery.task}")
        outcome = self.ledger.claim(claimant, self.policy)
        if isinstance(outcome, Busy):
            return self._again(replace(delivery, waits=delivery.waits + 1), self._dithered(outcome.retry_after))
        if isinstance(outcome, Held):
            return self._held(delivery)
        self.first_seen.setdefault(delivery.task, self.now)
        if isinstance(outcome, Duplicate):
            self.ended.setdefault(delivery.task, self.now)
            return None
        assert isinstance(outcome, Acquired), outcome
        try:
            yield from self._body(delivery, claimant, outcome.entry)
        except ClaimLost as lost:
            if lost.owner != claimant.task_id:
                # Longer each time, or bodies that outlast a lease could take the key from each other for ever.
                wait = self._dithered(max(LEASE, min(2.0**delivery.waits, 300.0)))
                self._again(replace(delivery, fate="ok", waits=delivery.waits + 1), wait)
        return None

    def _body(self, delivery: Delivery, claimant: Claimant, entry: Any) -> Iterator[float]:
        """What `Run` and the mail backend do, with the worker's fate in between."""
        calm = replace(delivery, fate="ok")
        yield delivery.renders
        if delivery.fate == "killed before":
            return self._again(calm, delivery.again)
        if delivery.fate == "fails before":
            hold(self.ledger, entry, policy=self.policy).release(retry_in=delivery.again)
            return self._again(calm, delivery.again)
        if not any(d.status is DeliveryStatus.ACCEPTED for d in entry.deliveries):
            entry = hold(self.ledger, entry, claimant, self.policy).begin([TARGET], "<m@x>")
            yield delivery.sends
            if delivery.fate in UNANSWERED:
                return self._unanswered(delivery, claimant, entry)
            self.accepted.append((self.now, delivery.task))
            reply = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250)}
            entry = hold(self.ledger, entry, claimant, self.policy).settle(reply, "<m@x>")
            self.recorded.append(self.now)
        yield delivery.ends
        if delivery.fate == "failed and lost":
            hold(self.ledger, entry, policy=self.policy).release(retry_in=1.0)
        if delivery.fate == "gives up":
            hold(self.ledger, entry).fail("ValueError")
        if delivery.fate in ("lost after", "failed and lost", "gives up"):
            self.ended.setdefault(delivery.task, self.now)  # and the broker forgets the message
        elif delivery.fate == "killed after":
            self._again(calm, delivery.again)
        elif delivery.fate == "fails after":
            hold(self.ledger, entry, policy=self.policy).release(retry_in=delivery.again)
            self._again(calm, delivery.again)
        else:
            hold(self.ledger, entry).complete(None)
            self.ended.setdefault(delivery.task, self.now)
        return None

    # -- doubts ------------------------------------------------------------------------------------------

    def _unanswered(self, delivery: Delivery, claimant: Claimant, entry: Any) -> None:
        """End a hand-over whose outcome nobody has seen: its worker died, or waited for the reply in vain."""
        calm, self._taken = replace(delivery, fate="ok"), delivery.taken
        if delivery.taken:
            self.accepted.append((self.now, delivery.task))
        if delivery.fate == "reply lost":
            reply = {TARGET: Reply(DeliveryStatus.IN_DOUBT)}
            hold(self.ledger, entry, claimant, self.policy).settle(reply, "<m@x>")
            # What is not there may still come until then.
            self._have_it_decided(self.now if delivery.taken else self.now - delivery.sends + SEND_TIMEOUT)
            return self._held(calm) if self.policy.in_doubt == "hold" else self._again(calm, delivery.again)
        late = self.now - delivery.sends + SEND_TIMEOUT
        self.at(late, lambda: expire(self.ledger.store, "k"))
        self._have_it_decided(late)
        return self._again(calm, delivery.again)

    def _have_it_decided(self, since: float) -> None:
        if self.policy.in_doubt == "hold" and self.decides is not NEVER:
            self.at(since + self.decides, self._decide)

    def _decide(self) -> None:
        found = self.ledger.store.get("k")
        assert found is not None
        Operator(self.ledger, "ann", "asked the mail server").resolve(found.entry, self._truth())
        if self._taken:
            self.recorded.append(self.now)

    def _truth(self) -> Verdict:
        return Verdict.SENT if self._taken else Verdict.NOT_SENT

    def _held(self, delivery: Delivery) -> None:
        """The message stays in the outbox, and the relay publishes it again once somebody has decided."""
        if self.decides is NEVER:
            self.ended.setdefault(delivery.task, self.now)
        else:
            self._again(delivery, REDELIVER)
