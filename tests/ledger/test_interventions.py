"""Operators' decisions: audited, one winner, and nothing that may be running is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_idempotent.exceptions import EntryChanged, InterventionRefused
from celery_idempotent.ledger.audit import MAX_AUDIT
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Busy, Duplicate, Reply
from celery_idempotent.ledger.policy import Verdict
from celery_idempotent.ledger.situations import find_situation
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import FakeClock, hold, race
from tests.ledger.entry_stages import (
    DECISIONS,
    ONE,
    POLICY,
    TARGET,
    TWO,
    claimed,
    doubtful,
    failed,
    sending,
    sent,
)

THREE = replace(ONE, task_id="task-3")


def cancelled(ledger: Ledger) -> Any:
    return Operator(ledger, "bob", "x").cancel(hold(ledger, claimed(ledger), policy=POLICY).release())


def test_a_doubt_resolved_as_sent(ledger: Ledger, clock: FakeClock, operator: Operator) -> None:
    """It is SENT and replayed; the audit says who, why and when by the store's clock."""
    entry = doubtful(ledger)
    clock.forward(5)
    done = operator.resolve(entry, Verdict.SENT)
    assert (done.status, done.deliveries[0].status, done.sent_at) == (
        Status.SENT,
        DeliveryStatus.ACCEPTED,
        clock.now,
    )
    (one,) = done.audit
    assert (one.action, one.actor, one.reason, one.at) == ("resolved as sent", "ann", "ticket 5", clock.now)
    assert (one.generation, one.found) == (1, Status.IN_DOUBT)
    assert isinstance(ledger.claim(TWO, POLICY), Duplicate)


def test_a_doubt_resolved_as_not_sent(ledger: Ledger, operator: Operator, clock: FakeClock) -> None:
    """The next call offers it again, in the same generation; the server may be at it until the deadline."""
    found = doubtful(ledger)
    clock.forward(POLICY.send_timeout - 1)
    assert find_situation(found, ledger.store.now()).decisions == ("resolve_sent",)
    with pytest.raises(InterventionRefused, match="for another 1 s by the store's clock"):
        operator.resolve(found, Verdict.NOT_SENT)
    clock.forward(1)
    assert find_situation(found, ledger.store.now()).decisions == ("resolve_sent", "resolve_not_sent")
    entry = operator.resolve(found, Verdict.NOT_SENT)
    assert entry.deadline is None
    assert entry.status is Status.RELEASED
    again = claimed(ledger, TWO)
    assert (again.generation, again.deliveries[0].status) == (1, DeliveryStatus.DEFERRED)


def test_a_doubt_of_one_recipient_while_another_is_owed_the_mail(ledger: Ledger, operator: Operator) -> None:
    """Resolved as sent it is not SENT: the next call serves the other one."""
    other = ("0", replace(TARGET[1], digest="b"))
    entry = hold(ledger, claimed(ledger), ONE, POLICY).begin([TARGET, other], "<m@x>")
    replies = {TARGET: Reply(DeliveryStatus.IN_DOUBT), other: Reply(DeliveryStatus.DEFERRED, 450)}
    entry = operator.resolve(hold(ledger, entry, ONE, POLICY).settle(replies, "<m@x>"), Verdict.SENT)
    assert entry.status is Status.RELEASED
    assert [d.status for d in claimed(ledger, TWO).deliveries] == [
        DeliveryStatus.ACCEPTED,
        DeliveryStatus.DEFERRED,
    ]


def test_an_opaque_doubt_is_resolved(ledger: Ledger, clock: FakeClock, operator: Operator) -> None:
    """A passed deadline that nobody has looked at is a doubt as well; the attempt gets its end."""
    opaque = replace(POLICY, opaque=True)
    entry = claimed(ledger, ONE, opaque)
    clock.forward(31)
    done = operator.resolve(entry, Verdict.SENT)
    assert (done.status, done.history[0].outcome) == (Status.SENT, DeliveryStatus.IN_DOUBT)
    assert isinstance(ledger.claim(TWO, opaque), Duplicate)


STATES: dict[str, tuple[Callable[[Ledger], Any], set[str]]] = {
    "claimed": (claimed, set()),
    "sending": (sending, set()),
    "sent": (sent, {"reopen", "resend"}),
    "released": (lambda ledger: hold(ledger, claimed(ledger), policy=POLICY).release(), {"cancel"}),
    "reserved": (
        lambda ledger: hold(ledger, claimed(ledger), policy=POLICY).release(retry_in=9),
        {"cancel", "release"},
    ),
    "failed": (failed, {"cancel", "reopen", "resend"}),
    "in doubt": (doubtful, {"resolve"}),
    "cancelled": (cancelled, {"reopen", "resend"}),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", DECISIONS)
def test_what_may_be_done_to_what(ledger: Ledger, operator: Operator, state: str, method: str) -> None:
    """Every decision in every state: it is done and audited, or refused with a way out and without a trace."""
    make, allowed = STATES[state]
    entry = make(ledger)
    if method in allowed:
        done = DECISIONS[method](operator, entry)
        assert done.audit[-1].actor == "ann"
        assert done.version == entry.version + 1
        return
    with pytest.raises(InterventionRefused, match=r"\. \w") as refused:
        DECISIONS[method](operator, entry)
    assert not isinstance(refused.value, EntryChanged)
    assert ledger.store.get("k").entry == entry  # type: ignore[union-attr]


@pytest.mark.parametrize("state", STATES)
def test_only_what_can_be_done_is_offered(ledger: Ledger, clock: FakeClock, state: str) -> None:
    """While a deadline runs, and after it: what a page offers is what is not refused."""
    make, _ = STATES[state]
    decisions = {
        "resolve_sent": DECISIONS["resolve"],
        "resolve_not_sent": lambda operator, entry: operator.resolve(entry, Verdict.NOT_SENT),
        **{name: DECISIONS[name] for name in ("cancel", "release", "reopen")},
    }
    for seconds in (0, 100):
        done = []
        for name, decision in decisions.items():
            fresh = Ledger(MemoryStore(clock))
            entry = make(fresh)
            clock.forward(seconds)
            names = find_situation(entry, clock.now).decisions
            try:
                decision(Operator(fresh, "ann", "x"), entry)
                done.append(name)
            except InterventionRefused:
                pass
        assert sorted(names) == sorted(done)


def test_what_may_be_running_is_left_alone_to_the_microsecond(
    ledger: Ledger, clock: FakeClock, operator: Operator
) -> None:
    """A claim until its lease ends, a hand-over until its send deadline, by the store's clock."""
    entry = claimed(ledger)
    clock.forward(59.999999)
    for method in ("cancel", "release"):
        with pytest.raises(InterventionRefused, match="at work right now"):
            DECISIONS[method](operator, entry)
    clock.forward(0.000001)
    assert operator.release(entry).status is Status.RELEASED
    entry = sending(ledger)
    clock.forward(29.999999)
    with pytest.raises(InterventionRefused, match="at work right now"):
        operator.resolve(entry, Verdict.NOT_SENT)
    clock.forward(0.000001)
    assert operator.resolve(entry, Verdict.NOT_SENT).status is Status.RELEASED


@pytest.mark.parametrize("method", ["reopen", "resend"])
def test_two_generations_asked_for_at_once(ledger: Ledger, method: str) -> None:
    """One wins, the others learn who did."""
    entry = sent(ledger)

    def ask(number: int) -> Any:
        try:
            return DECISIONS[method](Operator(ledger, f"operator-{number}", "again"), entry)
        except EntryChanged as error:
            return error

    answers = race(ask)
    (winner,) = [a for a in answers if not isinstance(a, EntryChanged)]
    assert winner.generation == 2
    name = winner.audit[-1].actor
    assert all(name in str(a) and "look again" in str(a) for a in answers if a is not winner)


def test_a_decision_about_what_has_gone(ledger: Ledger, clock: FakeClock, operator: Operator) -> None:
    """A purged entry: told as such."""
    entry = sent(ledger)
    clock.forward(10)
    ledger.store.purge(1)
    with pytest.raises(EntryChanged, match="no longer in the ledger"):
        operator.reopen(entry)


def test_a_new_generation_is_sent_by_whoever_did_not_take_part(ledger: Ledger, operator: Operator) -> None:
    """A redelivery of the first message replays the first result; a new call sends, under a new generation."""
    first = sent(ledger)
    opened = operator.reopen(first)
    assert (opened.status, opened.generation, opened.deliveries) == (Status.RELEASED, 2, ())
    old = ledger.claim(ONE, POLICY)
    assert isinstance(old, Duplicate)
    assert old.entry.result == {"ok": 1}
    entry = sent(ledger, TWO)
    assert (entry.generation, entry.owner) == (2, "task-2")
    assert isinstance(ledger.claim(ONE, POLICY), Duplicate)
    assert isinstance(ledger.claim(THREE, POLICY), Duplicate)


def test_a_resend_is_kept_for_its_own_task(ledger: Ledger, clock: FakeClock, operator: Operator) -> None:
    """Others wait while it may be under way; if it never comes, the next call sends instead."""
    operator.resend(sent(ledger), "task-9", 60)
    assert isinstance(ledger.claim(TWO, POLICY), Busy)
    assert isinstance(ledger.claim(ONE, POLICY), Duplicate)
    assert claimed(ledger, replace(ONE, task_id="task-9")).generation == 2
    clock.forward(61)
    assert claimed(ledger, TWO).generation == 2


def test_a_resend_that_could_not_be_published_leaves_all_as_it_was(ledger: Ledger, operator: Operator) -> None:
    """Status, generation, deliveries and result are back; the audit keeps both steps."""
    found = sent(ledger)
    back = operator.take_back(operator.resend(found, "task-9", 60), found)
    assert replace(back, version=found.version, audit=()) == found
    assert [one.action for one in back.audit] == ["resend", "resend taken back"]
    assert isinstance(ledger.claim(replace(ONE, task_id="task-9"), POLICY), Duplicate)


def test_a_resend_that_was_claimed_is_not_taken_back(ledger: Ledger, operator: Operator) -> None:
    """The message had arrived after all."""
    found = sent(ledger)
    opened = operator.resend(found, "task-9", 60)
    claimed(ledger, replace(ONE, task_id="task-9"))
    with pytest.raises(EntryChanged):
        operator.take_back(opened, found)


def test_the_audit_survives_generations_and_is_bounded(ledger: Ledger, operator: Operator) -> None:
    """Claims, sends and new generations keep it; the oldest decisions go when there are too many."""
    sent(ledger)
    for number in range(MAX_AUDIT + 5):
        operator.reopen(ledger.store.get("k").entry)  # type: ignore[union-attr]
        sent(ledger, replace(ONE, task_id=f"again-{number}"))
    audit = ledger.store.get("k").entry.audit  # type: ignore[union-attr]
    assert len(audit) == MAX_AUDIT
    assert audit[-1].generation == MAX_AUDIT + 5


@pytest.mark.parametrize(("actor", "reason"), [("", "why"), ("ann", " "), (None, "why"), ("ann", None)])
def test_who_and_why_have_to_be_said(ledger: Ledger, actor: Any, reason: Any) -> None:
    """An audit without them is none."""
    with pytest.raises(InterventionRefused, match="is empty"):
        Operator(ledger, actor, reason)


def test_a_reason_does_not_leak_an_address(ledger: Ledger) -> None:
    """P7: masked, and cut to what every store holds."""
    reason = Operator(ledger, "ann", "asked for by dora@example.com\x00" + "x" * 900).reason
    assert "d***@example.com" in reason
    assert "dora" not in reason
    assert len(reason) == 500
    assert reason.isprintable()
