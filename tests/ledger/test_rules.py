"""``allow_send``: a rule of the task's own that opens a new generation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Duplicate
from celery_idempotent.testing import FakeClock, hold, race
from tests.ledger.entry_stages import ONE, POLICY, TWO, claimed, failed, sent

THREE = replace(ONE, task_id="task-3")


def test_a_rule_opens_a_new_generation(ledger: Ledger, clock: FakeClock) -> None:
    """It sees the entry and who asks; True sends again, once for each task id."""
    seen: list[Any] = []

    def rule(entry: Any, request: Any) -> bool:
        seen.append(request)
        return bool((request.now - entry.sent_at).total_seconds() >= 3600)

    policy = replace(POLICY, allow_send=rule)
    sent(ledger, policy=policy)
    claimant = replace(TWO, args=(7,), kwargs={"to": "x"})
    assert isinstance(ledger.claim(claimant, policy), Duplicate)
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
    hold(ledger, ledger.store.get("k").entry).fail("x")  # type: ignore[union-attr]
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
