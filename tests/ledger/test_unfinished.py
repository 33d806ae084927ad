"""A doubt that ends as sent is not the end of a body: its own task finishes it, everybody else replays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_idempotent.ledger.deadlines import expire
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Busy, Duplicate, Reply
from celery_idempotent.ledger.policy import Policy, Verdict
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.ledger.writes import is_same_write
from celery_idempotent.testing import FakeClock, hold
from tests.ledger.provider_reports import (
    ANN,
    BOB,
    LOST,
    ONE,
    POLICY,
    TWO,
    YES,
    begun,
    event,
    in_doubt,
    statuses,
    told,
)

OPAQUE = replace(POLICY, opaque=True)


def operator(ledger: Ledger, actor: str = "ann") -> Operator:
    return Operator(ledger, actor, "mx1, queued as 4711")


def by_event(ledger: Ledger) -> Entry:
    """Message 1 was handed over, its reply lost; the provider proves it."""
    in_doubt(ledger)
    return told(ledger, event())


def by_operator(ledger: Ledger) -> Entry:
    """The same, and somebody has looked into the mail server's log."""
    return operator(ledger).resolve(in_doubt(ledger), Verdict.SENT)


WAYS: dict[str, Callable[[Ledger], Entry]] = {"event": by_event, "operator": by_operator}


@pytest.fixture(params=WAYS)
def proven(request: Any, ledger: Ledger) -> Entry:
    """An entry that is SENT although no run came to its body's end."""
    return WAYS[request.param](ledger)


def finishing(ledger: Ledger, policy: Policy = POLICY) -> Entry:
    outcome = ledger.claim(ONE, policy)
    assert isinstance(outcome, Acquired), outcome
    return outcome.entry


def test_its_own_task_sends_the_rest_and_records_the_result(ledger: Ledger, proven: Entry) -> None:
    """P2: message 2 goes out, message 1 does not again, and the key is closed with the body's result."""
    assert (proven.status, proven.unfinished, proven.result) == (Status.SENT, True, None)
    entry = finishing(ledger)
    assert (entry.status, entry.generation, statuses(entry)) == (Status.CLAIMED, 1, [DeliveryStatus.ACCEPTED])
    second = ("1", ANN[1])
    entry = hold(ledger, hold(ledger, entry, ONE, POLICY).begin([second], "<n>"), ONE, POLICY).settle(
        {second: YES}, "<n>"
    )
    done = hold(ledger, entry).complete("both")
    assert (done.status, done.unfinished, done.result) == (Status.SENT, False, "both")
    for claimant in (ONE, TWO):
        outcome = ledger.claim(claimant, POLICY)
        assert isinstance(outcome, Duplicate), "once it is finished, its own task replays as well"
        assert outcome.entry.result == "both"


def test_it_alone_of_what_is_sent_has_a_deadline(ledger: Ledger, clock: FakeClock, proven: Entry) -> None:
    """Stores find it by that, and nothing else happens by it; whatever ends this takes it away."""
    now = ledger.store.now()
    assert proven.deadline == now
    clock.forward(1000)
    assert ledger.store.due() == []
    assert expire(ledger.store, proven.key) is None
    assert isinstance(ledger.claim(TWO, POLICY), Duplicate)
    done = hold(ledger, finishing(ledger)).complete("both")
    assert (done.status, done.deadline) == (Status.SENT, None)


@pytest.mark.parametrize("decision", ["reopen", "forget"])
def test_a_decision_takes_the_deadline_away(ledger: Ledger, proven: Entry, decision: str) -> None:
    """A new generation and an erasure have nothing to finish."""
    desk = operator(ledger)
    changed = desk.reopen(proven) if decision == "reopen" else desk.forget(proven, "nobody", [])
    assert (changed.unfinished, changed.deadline) == (False, None)


def test_other_tasks_replay(ledger: Ledger, proven: Entry) -> None:
    """P1: the email is sent; and while its own task finishes it, others wait as for any claim."""
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Duplicate)
    assert outcome.entry.unfinished, "somebody else's look does not finish it"
    finishing(ledger)
    assert isinstance(ledger.claim(TWO, POLICY), Busy)


@pytest.mark.parametrize("claimant", [ONE, TWO])
def test_publishing_asks_the_same_as_a_claim(ledger: Ledger, proven: Entry, claimant: Any) -> None:
    """What `done` calls done is what a claim would replay."""
    done = ledger.done(claimant, POLICY) is not None
    assert done is isinstance(ledger.claim(claimant, POLICY), Duplicate)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda ledger, entry: hold(ledger, entry, policy=POLICY).release("OSError", 5.0), Status.RELEASED),
        (lambda ledger, entry: hold(ledger, entry, policy=POLICY).release("OSError"), Status.RELEASED),
        (lambda ledger, entry: hold(ledger, entry).fail("ValueError"), Status.FAILED),
    ],
    ids=["retried", "released", "failed"],
)
def test_a_run_that_does_not_finish_it_either(
    ledger: Ledger, proven: Entry, end: Callable[[Ledger, Entry], Entry], status: Status
) -> None:
    """It is what any unfinished email is then: the next one goes on, and who has it is not offered it again."""
    ended = end(ledger, finishing(ledger))
    assert (ended.status, ended.unfinished, statuses(ended)) == (status, False, [DeliveryStatus.ACCEPTED])
    assert statuses(finishing(ledger)) == [DeliveryStatus.ACCEPTED]


def test_a_run_that_is_killed_while_it_finishes_it(ledger: Ledger, clock: FakeClock, proven: Entry) -> None:
    """P2: from its claim on, it is an email like any other: whoever comes after the lease finishes it."""
    finishing(ledger)
    clock.forward(61)
    outcome = ledger.claim(TWO, POLICY)
    assert isinstance(outcome, Acquired)
    assert statuses(outcome.entry) == [DeliveryStatus.ACCEPTED]


def test_message_two_in_doubt_as_well(ledger: Ledger, proven: Entry) -> None:
    """The second doubt is one of its own, and ends in the same way."""
    second = ("1", ANN[1])
    entry = hold(ledger, finishing(ledger), ONE, POLICY).begin([second], "<n>")
    entry = hold(ledger, entry, ONE, POLICY).settle({second: LOST}, "<n>")
    assert (entry.status, entry.unfinished) == (Status.IN_DOUBT, False)
    assert operator(ledger).resolve(entry, Verdict.SENT).unfinished
    assert hold(ledger, finishing(ledger)).complete("both").result == "both"


def test_an_opaque_body_is_not_run_again(ledger: Ledger, clock: FakeClock) -> None:
    """P1: nobody can tell its steps apart, so resolved as sent means that all of it was done."""
    assert isinstance(ledger.claim(ONE, OPAQUE), Acquired)
    clock.forward(31)
    entry = expire(ledger.store, "k")
    assert entry is not None
    assert entry.status is Status.IN_DOUBT, "without recipients there is nobody for whom it could be proven"
    assert not operator(ledger).resolve(entry, Verdict.SENT).unfinished
    assert isinstance(ledger.claim(ONE, OPAQUE), Duplicate)


def test_a_body_that_has_become_opaque_is_not_run_again(ledger: Ledger, proven: Entry) -> None:
    """P1: without the backend nothing would keep it from sending message 1 once more."""
    assert isinstance(ledger.claim(ONE, OPAQUE), Duplicate)
    assert ledger.done(ONE, OPAQUE) is not None


def test_what_somebody_is_still_owed_is_released(ledger: Ledger) -> None:
    """As ever: the next call serves them, whoever makes it, and finishes the body."""
    entry = begun(ledger, ANN, BOB)
    replies = {ANN: LOST, BOB: Reply(DeliveryStatus.DEFERRED, 450)}
    entry = operator(ledger).resolve(hold(ledger, entry, ONE, POLICY).settle(replies, "<m>"), Verdict.SENT)
    assert (entry.status, entry.unfinished) == (Status.RELEASED, False)


def test_a_proven_refusal_is_a_failure(ledger: Ledger) -> None:
    """A failed email is tried again by whoever comes, so there is nothing to remember."""
    in_doubt(ledger)
    entry = told(ledger, event("rejected"))
    assert (entry.status, entry.unfinished) == (Status.FAILED, False)
    assert isinstance(ledger.claim(ONE, POLICY), Acquired)


def test_a_new_generation_has_nothing_to_finish(ledger: Ledger, proven: Entry) -> None:
    """Whoever was to finish the old one has taken part in that, and replays."""
    entry = operator(ledger).reopen(proven)
    assert not entry.unfinished
    assert isinstance(ledger.claim(ONE, POLICY), Duplicate)
    assert isinstance(ledger.claim(TWO, POLICY), Acquired)


def test_a_resend_that_is_taken_back_leaves_it_to_be_finished(ledger: Ledger, proven: Entry) -> None:
    """Everything is as it was."""
    one = operator(ledger)
    assert one.take_back(one.resend(proven, "task-9", 60), proven).unfinished
    finishing(ledger)


@pytest.fixture(params=[{"window": 100.0}, {"allow_send": lambda entry, request: True}], ids=["window", "rule"])
def open_policy(request: Any, proven: Entry, clock: FakeClock) -> Policy:
    """Other tasks may send by now: a window has passed, or a rule allows it."""
    clock.forward(101)
    return replace(POLICY, **request.param)


def test_a_window_or_a_rule_is_for_other_tasks(ledger: Ledger, open_policy: Policy) -> None:
    """Its own task took part: it finishes what it began. Another one's new email closes the old generation."""
    assert finishing(ledger, open_policy).generation == 1


def test_another_tasks_new_email_comes_first(ledger: Ledger, open_policy: Policy) -> None:
    """An acceptance counts even if its run had no end: after the window there is a new generation, once."""
    outcome = ledger.claim(TWO, open_policy)
    assert isinstance(outcome, Acquired)
    assert (outcome.entry.generation, outcome.entry.unfinished) == (2, False)
    assert isinstance(ledger.claim(ONE, open_policy), Duplicate)


def test_who_was_forgotten_is_not_offered_it_again(ledger: Ledger, proven: Entry) -> None:
    """P1, P7: nothing recognises them any more, so the body must not run."""
    entry = operator(ledger).forget(proven, ANN[1].digest, ["a***"])
    assert (entry.status, entry.unfinished) == (Status.SENT, False)
    assert isinstance(ledger.claim(ONE, POLICY), Duplicate)


def test_a_proof_is_not_taken_for_the_end_of_a_run(ledger: Ledger, proven: Entry) -> None:
    """Both are SENT; only one of them is the write of a body that returned nothing."""
    finished = replace(proven, version=proven.version - 1, unfinished=False)
    assert not is_same_write(proven, finished)
    assert is_same_write(replace(proven, unfinished=False), finished)
