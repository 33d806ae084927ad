"""Proofs that come while a run is under way: none is undone, and nothing that the run knows is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.core.mail import EmailMessage

from celery_idempotent import ClaimLost, DeliveryInDoubt, LedgerUnavailable
from celery_idempotent.execution.run import Run
from celery_idempotent.ledger.deadlines import expire
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import Entry, Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Policy, Verdict
from celery_idempotent.ledger.provider_events import Event, mark
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.mail.handover import HandOver
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import hold

WINDOW = 3_600
WHO = Claimant("k", "mail", "task-1")
RULES = Policy(lease=60, send_timeout=30, window=WINDOW)
ANN, BOB = ("0", Recipient("a", "a***")), ("0", Recipient("b", "b***"))
ACCEPTED, REFUSED = Reply(DeliveryStatus.ACCEPTED, 250), Reply(DeliveryStatus.REFUSED, 550)
LOST = Reply(DeliveryStatus.IN_DOUBT, None, "no reply")


class Clock:
    """The store's clock, which the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 28, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger(MemoryStore(clock))


def told(entry: Entry, kind: str, clock: Clock, who: Recipient) -> Event:
    """Return what the provider tells about the first hand-over of ``entry``."""
    message = mark(entry.deliveries[0].message_id, entry.begun_at)
    return Event(kind, clock.now, 1, message, 1, who.digest, "P")


class Transport:
    """A server that takes the mail, and replies as it is told to."""

    provider, account = None, ""

    def __init__(self, mailbox: list[str], answer: Reply) -> None:
        self.mailbox, self.answer = mailbox, answer

    def deliver(self, message: Any, addresses: Sequence[str], observer: Any, timeout: float) -> None:
        observer.write_ahead(addresses)
        observer.released = True
        self.mailbox.extend(addresses)
        observer.record(dict.fromkeys(addresses, self.answer))


def claimed(ledger: Ledger, task: str = "task-1") -> Run:
    outcome = ledger.claim(Claimant("k", "mail", task), RULES)
    assert isinstance(outcome, Acquired), outcome
    return Run(ledger, outcome.claim)


def send(run: Run, transport: Any) -> None:
    with run.active():
        HandOver(run, EmailMessage("Hi", "x", "a@x.org", ["ann@x.org"]), transport).deliver()


@pytest.mark.parametrize("released", ["not released", "before the event", "after the event"])
@pytest.mark.parametrize(
    ("kind", "status"), [("delivered", DeliveryStatus.ACCEPTED), ("rejected", DeliveryStatus.REFUSED)]
)
def test_what_is_proven_is_not_offered_again(
    ledger: Ledger, clock: Clock, released: str, kind: str, status: DeliveryStatus
) -> None:
    """P1: a doubt is resolved as not sent, and the proof comes while the next body renders.

    That takes longer than its lease. Whether a sweep has released its claim or not: it sends nothing.
    """
    mailbox: list[str] = []
    with pytest.raises(DeliveryInDoubt):
        send(claimed(ledger), Transport(mailbox, LOST))
    clock.move(31)
    doubt = ledger.store.get("k").entry  # type: ignore[union-attr]
    Operator(ledger, "ann", "it was not in the log yet").resolve(doubt, Verdict.NOT_SENT)
    slow = claimed(ledger)
    clock.move(61)
    if released == "before the event":
        assert expire(ledger.store, "k") is not None
    ledger.hear("k", told(doubt, kind, clock, doubt.deliveries[0].recipient))
    if released == "after the event":
        assert expire(ledger.store, "k") is not None
    assert ledger.store.get("k").entry.deliveries[0].status is status  # type: ignore[union-attr]
    with pytest.raises(ClaimLost):
        send(slow, Transport(mailbox, ACCEPTED))
    assert mailbox == ["ann@x.org"]
    assert ledger.store.get("k").entry.deliveries[0].status is status  # type: ignore[union-attr]


@pytest.mark.parametrize("when", ["after the record", "before the record"])
def test_a_proven_acceptance_counts_for_the_window(ledger: Ledger, clock: Clock, when: str) -> None:
    """The window begins with an acceptance, from wherever it was learnt: after it, bob gets the next one."""
    run = claimed(ledger)
    run.begin([ANN, BOB], "<m@x>")
    event = told(run.entry, "delivered", clock, BOB[1])
    if when == "before the record":
        ledger.hear("k", event)
    run.settle(dict.fromkeys([ANN, BOB], LOST), "<m@x>")
    if when == "after the record":
        ledger.hear("k", event)
    entry = ledger.store.get("k").entry  # type: ignore[union-attr]
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.IN_DOUBT, DeliveryStatus.ACCEPTED]
    assert entry.sent_at == clock.now
    clock.move(31)
    Operator(ledger, "ann", "asked").resolve(entry, Verdict.NOT_SENT)
    run = claimed(ledger)
    run.settle({ANN: REFUSED}, "<m@x>")
    run.fail("RecipientsRefused")
    clock.move(WINDOW)
    assert claimed(ledger, "task-2").entry.generation == 2


def test_a_proven_refusal_opens_no_window(ledger: Ledger, clock: Clock) -> None:
    """All that the provider tells, before the reply is lost, is that it has not taken the mail."""
    run = claimed(ledger)
    run.begin([ANN], "<m@x>")
    ledger.hear("k", told(run.entry, "rejected", clock, ANN[1]))
    run.settle({ANN: LOST}, "<m@x>")
    entry = ledger.store.get("k").entry  # type: ignore[union-attr]
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.REFUSED]
    assert entry.sent_at is None


class Stalling(MemoryStore):
    """A store that does not answer the write-ahead in time, and carries it out when ``lands`` says so."""

    def __init__(self, clock: Clock, lands: str) -> None:
        super().__init__(clock)
        self.lands, self.waiting = lands, None

    def land(self) -> None:
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            super().swap(*waiting)

    def swap(self, entry: Entry, version: int, *rest: Any) -> Any:
        if entry.status is Status.SENDING:
            self.waiting = (entry, version, *rest)
            raise LedgerUnavailable("timeout")
        if self.lands == "before the swap":
            self.land()
        return super().swap(entry, version, *rest)

    def get(self, key: str) -> Any:
        if self.lands == "before the get":
            self.land()
        return super().get(key)


@pytest.mark.parametrize("lands", ["before the get", "before the swap", "after it"])
def test_a_write_ahead_that_lands_late_leaves_no_doubt(clock: Clock, lands: str) -> None:
    """P6: the client gave up, the store did not. Nothing was sent, and the process knows that."""
    store, mailbox = Stalling(clock, lands), []
    ledger = Ledger(store)
    with pytest.raises(LedgerUnavailable):
        send(claimed(ledger), Transport(mailbox, ACCEPTED))
    store.land()
    assert mailbox == []
    clock.move(31)
    entry = claimed(ledger).entry
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.DEFERRED]


def resolved(ledger: Ledger, clock: Clock, doubt: Entry) -> None:
    Operator(ledger, "ann", "asked").resolve(doubt, Verdict.NOT_SENT)


def reported(ledger: Ledger, clock: Clock, doubt: Entry) -> None:
    ledger.hear("k", told(doubt, "deferred", clock, BOB[1]))


@pytest.mark.parametrize("act", [resolved, reported])
def test_a_late_250_counts_however_often_others_write(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch, act: Callable[..., None]
) -> None:
    """P3: a sweep has called it in doubt, and somebody writes between the look and the write of the run."""
    run = claimed(ledger)
    run.begin([ANN, BOB], "<m@x>")
    clock.move(31)
    doubt = expire(ledger.store, "k")
    assert doubt is not None
    get, looks = ledger.store.get, []

    def look(key: str) -> Any:
        found = get(key)
        looks.append(found)
        if len(looks) == 1:  # the run's first look: what it sees is outdated at once
            monkeypatch.setattr(ledger.store, "get", get)
            act(ledger, clock, doubt)
            monkeypatch.setattr(ledger.store, "get", look)
        return found

    monkeypatch.setattr(ledger.store, "get", look)
    run.settle({ANN: ACCEPTED, BOB: ACCEPTED}, "<m@x>")
    assert len(looks) == 2
    entry = hold(ledger, run.entry).complete("done")
    assert entry.status is Status.SENT
    assert {d.status for d in entry.deliveries} == {DeliveryStatus.ACCEPTED}
