"""Operators' decisions: audited, one winner, and nothing that may be running is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_idempotent.core.errors import ClaimLost, EntryChanged, InterventionRefused
from celery_idempotent.core.expiry import expire
from celery_idempotent.core.interventions import MAX_AUDIT, Operator
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Acquired, Busy, Duplicate, Held, Reply, Verdict
from celery_idempotent.core.status import DeliveryStatus, Status
from celery_idempotent.testing import race
from tests.core.test_ledger import (
    ACCEPTED,
    ONE,
    POLICY,
    TARGET,
    TWO,
    Clock,
    claimed,
    clock,
    doubtful,
    ledger,
    sending,
    sent,
)

__all__ = ["clock", "ledger"]  # fixtures
THREE = replace(ONE, task_id="task-3")


@pytest.fixture
def operator(ledger: Ledger) -> Operator:
    """Ann, with a reason."""
    return Operator(ledger.store, "ann", "ticket 5")


def failed(ledger: Ledger) -> Any:
    entry = ledger.settle(sending(ledger), {TARGET: Reply(DeliveryStatus.REFUSED, 550)}, "<m@x>", ONE, POLICY)
    return ledger.fail(entry, "RecipientsRefused")


def cancelled(ledger: Ledger) -> Any:
    return Operator(ledger.store, "bob", "x").cancel(ledger.release(claimed(ledger), POLICY))


def test_a_doubt_resolved_as_sent(ledger: Ledger, clock: Clock, operator: Operator) -> None:
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


def test_a_doubt_resolved_as_not_sent(ledger: Ledger, operator: Operator) -> None:
    """The next call offers it again, in the same generation."""
    entry = operator.resolve(doubtful(ledger), Verdict.NOT_SENT)
    assert entry.status is Status.RELEASED
    again = claimed(ledger, TWO)
    assert (again.generation, again.deliveries[0].status) == (1, DeliveryStatus.DEFERRED)


def test_a_doubt_of_one_recipient_while_another_is_owed_the_mail(ledger: Ledger, operator: Operator) -> None:
    """Resolved as sent it is not SENT: the next call serves the other one."""
    other = ("0", replace(TARGET[1], digest="b"))
    entry = ledger.begin(claimed(ledger), [TARGET, other], "<m@x>", ONE, POLICY)
    replies = {TARGET: Reply(DeliveryStatus.IN_DOUBT), other: Reply(DeliveryStatus.DEFERRED, 450)}
    entry = operator.resolve(ledger.settle(entry, replies, "<m@x>", ONE, POLICY), Verdict.SENT)
    assert entry.status is Status.RELEASED
    assert [d.status for d in claimed(ledger, TWO).deliveries] == [
        DeliveryStatus.ACCEPTED,
        DeliveryStatus.DEFERRED,
    ]


def test_an_opaque_doubt_is_resolved(ledger: Ledger, clock: Clock, operator: Operator) -> None:
    """A passed deadline that nobody has looked at is a doubt as well; the attempt gets its end."""
    opaque = replace(POLICY, opaque=True)
    entry = claimed(ledger, ONE, opaque)
    clock.forward(31)
    done = operator.resolve(entry, Verdict.SENT)
    assert (done.status, done.history[0].outcome) == (Status.SENT, DeliveryStatus.IN_DOUBT)
    assert isinstance(ledger.claim(TWO, opaque), Duplicate)


METHODS: dict[str, Callable[[Operator, Any], Any]] = {
    "resolve": lambda operator, entry: operator.resolve(entry, Verdict.SENT),
    "cancel": lambda operator, entry: operator.cancel(entry),
    "release": lambda operator, entry: operator.release(entry),
    "reopen": lambda operator, entry: operator.reopen(entry),
    "resend": lambda operator, entry: operator.resend(entry, "task-9", 60),
}
STATES: dict[str, tuple[Callable[[Ledger], Any], set[str]]] = {
    "claimed": (claimed, set()),
    "sending": (sending, set()),
    "sent": (sent, {"reopen", "resend"}),
    "released": (lambda ledger: ledger.release(claimed(ledger), POLICY), {"cancel"}),
    "reserved": (lambda ledger: ledger.release(claimed(ledger), POLICY, retry_in=9), {"cancel", "release"}),
    "failed": (failed, {"cancel", "reopen", "resend"}),
    "in doubt": (doubtful, {"resolve"}),
    "cancelled": (cancelled, {"reopen", "resend"}),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", METHODS)
def test_what_may_be_done_to_what(ledger: Ledger, operator: Operator, state: str, method: str) -> None:
    """Every decision in every state: it is done and audited, or refused with a way out and without a trace."""
    make, allowed = STATES[state]
    entry = make(ledger)
    if method in allowed:
        done = METHODS[method](operator, entry)
        assert done.audit[-1].actor == "ann"
        assert done.version == entry.version + 1
        return
    with pytest.raises(InterventionRefused, match=r"\. \w") as refused:
        METHODS[method](operator, entry)
    assert not isinstance(refused.value, EntryChanged)
    assert ledger.store.get("k").entry == entry  # type: ignore[union-attr]


def test_what_may_be_running_is_left_alone_to_the_microsecond(
    ledger: Ledger, clock: Clock, operator: Operator
) -> None:
    """A claim until its lease ends, a hand-over until its send deadline, by the store's clock."""
    entry = claimed(ledger)
    clock.forward(59.999999)
    for method in ("cancel", "release"):
        with pytest.raises(InterventionRefused, match="at work right now"):
            METHODS[method](operator, entry)
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
            return METHODS[method](Operator(ledger.store, f"operator-{number}", "again"), entry)
        except EntryChanged as error:
            return error

    answers = race(ask)
    (winner,) = [a for a in answers if not isinstance(a, EntryChanged)]
    assert winner.generation == 2
    name = winner.audit[-1].actor
    assert all(name in str(a) and "look again" in str(a) for a in answers if a is not winner)


def test_a_decision_about_what_has_gone(ledger: Ledger, clock: Clock, operator: Operator) -> None:
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


def test_a_resend_is_kept_for_its_own_task(ledger: Ledger, clock: Clock, operator: Operator) -> None:
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
        Operator(ledger.store, actor, reason)


def test_a_reason_does_not_leak_an_address(ledger: Ledger) -> None:
    """P7: masked, and cut to what every store holds."""
    reason = Operator(ledger.store, "ann", "asked for by dora@example.com\x00" + "x" * 900).reason
    assert "d***@example.com" in reason
    assert "dora" not in reason
    assert len(reason) == 500
    assert reason.isprintable()


# -- processes that are slow and not dead ------------------------------------------------------------------


def test_a_slow_body_goes_on_after_its_claim_was_released(
    ledger: Ledger, clock: Clock, operator: Operator
) -> None:
    """Nobody has claimed since, so the run that holds the claim may send: by sweep or by hand."""
    entry = claimed(ledger)
    clock.forward(61)
    released = expire(ledger.store, "k")
    assert released is not None
    assert released.status is Status.RELEASED
    entry = ledger.settle(ledger.begin(entry, [TARGET], "<m@x>", ONE, POLICY), ACCEPTED, "<m@x>", ONE, POLICY)
    clock.forward(61)
    operator.release(entry)
    assert ledger.complete(entry, 1).status is Status.SENT


def test_a_slow_body_is_fenced_off_once_somebody_has_claimed(ledger: Ledger, clock: Clock) -> None:
    """P1: the release itself is harmless, the next claim counts."""
    entry = claimed(ledger)
    clock.forward(61)
    expire(ledger.store, "k")
    claimed(ledger, TWO)
    with pytest.raises(ClaimLost):
        ledger.begin(entry, [TARGET], "<m@x>", ONE, POLICY)


def test_a_cancelled_email_is_not_sent_by_a_slow_body(ledger: Ledger, clock: Clock, operator: Operator) -> None:
    """It learns that it has lost, and not that another run of its own task took over."""
    entry = claimed(ledger)
    clock.forward(61)
    operator.cancel(entry)
    with pytest.raises(ClaimLost) as lost:
        ledger.begin(entry, [TARGET], "<m@x>", ONE, POLICY)
    assert lost.value.owner is None
    assert isinstance(ledger.claim(ONE, POLICY), Duplicate)


def test_a_late_reply_counts_over_not_sent(ledger: Ledger, clock: Clock, operator: Operator) -> None:
    """P1: the process that handed over knows better, as long as nobody has claimed since."""
    late = sending(ledger)
    clock.forward(31)
    operator.resolve(late, Verdict.NOT_SENT)
    entry = ledger.settle(late, ACCEPTED, "<m@x>", ONE, POLICY)
    assert entry.deliveries[0].status is DeliveryStatus.ACCEPTED
    assert [one.action for one in entry.audit] == ["resolved as not sent"]


@pytest.mark.parametrize("method", ["reopen", "resend"])
def test_a_new_generation_is_out_of_a_late_process_reach(ledger: Ledger, clock: Clock, method: str) -> None:
    """What the old run still has to say is not said about the new sending."""
    late = sending(ledger)
    clock.forward(31)
    operator = Operator(ledger.store, "ann", "x")
    opened = METHODS[method](operator, operator.resolve(late, Verdict.SENT))
    unsent = {TARGET: Reply(DeliveryStatus.DEFERRED)}
    for write in (
        lambda: ledger.settle(late, unsent, "<m@x>", ONE, POLICY),
        lambda: ledger.withdraw(late, [TARGET], "<m@x>", ONE, POLICY),
        lambda: ledger.release(late, POLICY),
    ):
        with pytest.raises(ClaimLost):
            write()
    assert ledger.store.get("k").entry == opened  # type: ignore[union-attr]


# -- expiry ------------------------------------------------------------------------------------------------


def test_a_deadline_that_is_running_is_not_touched(ledger: Ledger, clock: Clock) -> None:
    """To the microsecond; and a finished or unknown entry has none."""
    for make, seconds in ((claimed, 60), (sending, 30)):
        make(ledger)
        clock.forward(seconds - 0.000001)
        assert expire(ledger.store, "k") is None
        clock.forward(0.000001)
        assert expire(ledger.store, "k") is not None
        assert expire(ledger.store, "k") is None
    assert expire(ledger.store, "unknown") is None


def test_a_passed_send_deadline_is_a_doubt(ledger: Ledger, clock: Clock) -> None:
    """With deliveries and attempt; the next claim is held."""
    sending(ledger)
    clock.forward(30)
    entry = expire(ledger.store, "k")
    assert entry is not None
    assert (entry.status, entry.deliveries[0].status, entry.history[0].outcome) == (
        Status.IN_DOUBT,
        DeliveryStatus.IN_DOUBT,
        DeliveryStatus.IN_DOUBT,
    )
    assert isinstance(ledger.claim(TWO, POLICY), Held)


# -- a rule of the task's own ------------------------------------------------------------------------------


def test_a_rule_opens_a_new_generation(ledger: Ledger, clock: Clock) -> None:
    """It sees the entry and who asks; True sends again, once for each task id."""
    seen: list[Any] = []

    def rule(entry: Any, request: Any) -> bool:
        seen.append(request)
        return bool((request.now - entry.sent_at).total_seconds() >= 3600)

    policy = replace(POLICY, allow_send=rule)
    sent(ledger, policy=policy)
    asker = replace(TWO, args=(7,), kwargs={"to": "x"})
    assert isinstance(ledger.claim(asker, policy), Duplicate)
    assert (seen[0].task_id, seen[0].args, seen[0].kwargs, seen[0].now) == (
        "task-2",
        (7,),
        {"to": "x"},
        clock.now,
    )
    clock.forward(3600)
    for took_part in (ONE, TWO):
        assert isinstance(ledger.claim(took_part, policy), Duplicate)
    assert len(seen) == 1
    assert sent(ledger, THREE, policy).generation == 2
    for old in (ONE, TWO, THREE):
        assert isinstance(ledger.claim(old, policy), Duplicate)


def test_a_rule_and_a_failure(ledger: Ledger) -> None:
    """Without a word from it the default rule stays: the same generation; with True, everybody anew."""
    failed(ledger)
    assert claimed(ledger, TWO, replace(POLICY, allow_send=lambda *_: None)).generation == 1
    ledger.fail(ledger.store.get("k").entry, "x")  # type: ignore[union-attr]
    again = claimed(ledger, THREE, replace(POLICY, allow_send=lambda *_: True))
    assert (again.generation, again.deliveries) == (2, ())


def test_a_rule_that_breaks_means_no(ledger: Ledger, caplog: Any) -> None:
    """Logged, and a duplicate as by default; so is anything that is not True, such as a coroutine."""

    def broken(*_: Any) -> bool:
        raise RuntimeError("the rule's own bug")

    sent(ledger)
    for rule in (broken, lambda *_: "yes", lambda *_: 1):
        outcome = ledger.claim(replace(TWO, task_id=repr(rule)), replace(POLICY, allow_send=rule))  # type: ignore[arg-type]
        assert isinstance(outcome, Duplicate)
    assert caplog.text.count("counts as no") == 3


def test_one_claim_wins_under_a_rule(ledger: Ledger) -> None:
    """P1: of many that the rule allows at once, one sends."""
    policy = replace(POLICY, allow_send=lambda entry, request: entry.generation == 1)
    sent(ledger, policy=policy)
    outcomes = race(lambda n: ledger.claim(replace(ONE, task_id=f"racer-{n}"), policy))
    assert sum(isinstance(outcome, Acquired) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Busy) for outcome in outcomes) == len(outcomes) - 1
