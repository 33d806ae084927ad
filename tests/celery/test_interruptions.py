"""What strikes in the middle of a write to the ledger changes neither what happened nor what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from django.core.mail import EmailMessage

from celery_idempotent import ClaimLost, IdempotentEmailTask, IdempotentTask, LedgerUnavailable, Status
from celery_idempotent.conf import conf
from celery_idempotent.ledger.addresses import recipient
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.held_claim import HeldClaim
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Policy, Verdict
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.tasks.idempotent import CeleryCall
from celery_idempotent.testing import hold
from tests.support.mailserver import ScriptedSMTP

pytestmark = pytest.mark.usefixtures("memory_ledger", "tracked")
app = Celery("interruptions", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="interrupted")
def interrupted(n: int) -> str:
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    return "sent"


@app.task(base=IdempotentTask, key_fields=("n",), name="interrupted-opaque")
def interrupted_opaque(n: int) -> str:
    return "done"


def strike(monkeypatch: pytest.MonkeyPatch, ledger: Any, number: int, stored: bool, error: Exception) -> None:
    """Raise ``error`` in the ``number``-th swap, before or after it is stored."""
    swap: Callable[..., Any] = ledger.store.swap
    calls = 0

    def struck(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != number:
            return swap(*args, **kwargs)
        if stored:
            swap(*args, **kwargs)
        raise error

    monkeypatch.setattr(ledger.store, "swap", struck)


BEGIN, SETTLE, COMPLETE = 1, 2, 3


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("write", "state", "copies", "status"),
    [
        (BEGIN, "FAILURE", 0, Status.FAILED),
        (SETTLE, "FAILURE", 1, Status.FAILED),
        (COMPLETE, "SUCCESS", 1, Status.SENT),
    ],
)
def test_a_soft_time_limit_in_a_write(
    memory_ledger: Any,
    server: ScriptedSMTP,
    monkeypatch: pytest.MonkeyPatch,
    write: int,
    stored: bool,
    state: str,
    copies: int,
    status: Status,
) -> None:
    """P1, P2: never in doubt, as the process knows what it did; the next call sends what is owed, once."""
    strike(monkeypatch, memory_ledger, write, stored, SoftTimeLimitExceeded())
    assert interrupted.apply((1,)).state == state
    entry = interrupted.entry_for(1)
    assert (entry.status, len(server.accepted)) == (status, copies)
    assert all(d.status in (DeliveryStatus.ACCEPTED, DeliveryStatus.DEFERRED) for d in entry.deliveries)
    assert interrupted.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1


def test_a_write_ahead_whose_confirmation_is_lost(
    memory_ledger: Any, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P6: the payload stays here, the write is taken back, and the task's next try goes on at once."""
    strike(monkeypatch, memory_ledger, BEGIN, True, LedgerUnavailable("cut off"))
    assert isinstance(interrupted.apply((1,), task_id="one").result, LedgerUnavailable)
    assert not server.accepted
    assert interrupted.entry_for(1).status is Status.CLAIMED
    assert interrupted.apply((1,), task_id="one").get() == "sent"
    assert len(server.accepted) == 1


@pytest.mark.parametrize("stored", [False, True])
def test_an_opaque_body_that_is_done_is_recorded_as_done(
    memory_ledger: Any, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """Its only write after the claim is the one that says so."""
    strike(monkeypatch, memory_ledger, 1, stored, SoftTimeLimitExceeded())
    assert interrupted_opaque.apply((1,)).get() == "done"
    assert interrupted_opaque.entry_for(1).status is Status.SENT


def test_a_run_that_lost_its_claim_takes_nothing_back(
    memory_ledger: Any, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another run has taken over meanwhile, its entry is left alone."""
    strike(monkeypatch, memory_ledger, BEGIN, False, SoftTimeLimitExceeded())
    get = memory_ledger.store.get

    def taken_over(key: str) -> Any:
        monkeypatch.setattr(memory_ledger.store, "get", get)
        seen = get(key)
        memory_ledger.store.swap(replace(seen.entry, owner="other"), seen.entry.version)
        return get(key)

    monkeypatch.setattr(memory_ledger.store, "get", taken_over)
    assert interrupted.apply((1,)).state == "FAILURE"
    assert interrupted.entry_for(1).owner == "other"
    assert not server.accepted


def redelivered(ledger: Any, until: str) -> Any:
    """Take the claim over as the task's own redelivery would, and go on ``until`` some point."""
    identity = interrupted._identify((1,), {})
    claimant = Claimant(identity.key, "interrupted", "one", "", identity.label, identity.fingerprint)
    outcome = ledger.claim(claimant, Policy())
    assert isinstance(outcome, Acquired)
    entry = outcome.entry
    if until != "claimed":
        who = recipient("ann@example.com", conf.recipient_salt, conf.recipients)
        entry = hold(ledger, entry, claimant, Policy()).begin([("0", who)], "<m@other>")
        status = DeliveryStatus.IN_DOUBT if until == "proven" else DeliveryStatus.ACCEPTED
        entry = hold(ledger, entry, claimant, Policy()).settle({("0", who): Reply(status)}, "<m@other>")
    if until == "proven":
        entry = Operator(ledger, "ann", "it is in the log").resolve(entry, Verdict.SENT)
    if until == "sent":
        entry = hold(ledger, entry).complete("sent by the other")
    return entry


@pytest.mark.parametrize(
    ("until", "value", "copies"),
    [("claimed", "sent", 1), ("accepted", "sent", 0), ("sent", "sent by the other", 0), ("proven", "sent", 0)],
)
def test_a_run_and_its_own_redelivery_at_once(
    memory_ledger: Any,
    server: ScriptedSMTP,
    monkeypatch: pytest.MonkeyPatch,
    until: str,
    value: str,
    copies: int,
) -> None:
    """P1, P4: who is ready to send goes first; who comes later finds it done. Nobody gives up for ever."""
    begin, others = HeldClaim.begin, []

    def overtaken(*args: Any) -> Any:
        if not others:
            others.append(None)
            others[0] = redelivered(memory_ledger, until)
        return begin(*args)

    monkeypatch.setattr(HeldClaim, "begin", overtaken)
    monkeypatch.setattr(CeleryCall, "local", property(lambda self: False, lambda self, value: None))
    assert interrupted.apply((1,), task_id="one").get() == value
    assert len(server.accepted) == copies
    assert interrupted.entry_for(1).status is Status.SENT
    if until != "sent":
        with pytest.raises(ClaimLost):
            hold(memory_ledger, replace(others[0], status=Status.CLAIMED)).complete("late")


def test_a_late_reply_after_the_redeliverys_own_doubt_was_proven(
    memory_ledger: Any, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2: neither run has come to the end of the body, so the older one has no result; a third has."""
    settle, others = HeldClaim.settle, []

    def overtaken(held: HeldClaim, *args: Any) -> Any:
        if not others:
            entry = held.entry
            others.append(None)
            store = memory_ledger.store
            late = store.swap(replace(entry, status=Status.RELEASED, deadline=None), entry.version).entry
            others[0] = redelivered(memory_ledger, "proven")
            assert late.claim_id != others[0].claim_id
        return settle(held, *args)

    monkeypatch.setattr(HeldClaim, "settle", overtaken)
    monkeypatch.setattr(CeleryCall, "local", property(lambda self: False, lambda self, value: None))
    assert interrupted.apply((1,), task_id="one").state == "IGNORED"
    assert interrupted.entry_for(1).unfinished
    assert interrupted.apply((1,), task_id="one").get() == "sent"
    assert len(server.accepted) == 1


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), LedgerUnavailable("cut off")])
def test_an_opaque_claim_that_was_interrupted_leaves_no_doubt(
    memory_ledger: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Stored, but the body has not begun: it is free again."""
    insert = memory_ledger.store.insert

    def struck(*args: Any) -> Any:
        insert(*args)
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(memory_ledger.store, "insert", struck)
        assert interrupted_opaque.apply((1,)).state == "FAILURE"
    assert interrupted_opaque.entry_for(1).status is Status.RELEASED
    assert interrupted_opaque.apply((1,)).get() == "done"


@pytest.mark.parametrize("step", ["settle", "complete"])
def test_a_limit_right_after_a_write_records_it_once(
    memory_ledger: Any, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """P5: one hand-over is one attempt, also where the limit strikes when the run knows its new entry."""
    write, struck = getattr(HeldClaim, step), []

    def strike_after(held: HeldClaim, *args: Any) -> Any:
        entry = write(held, *args)
        if not struck:
            struck.append(entry)
            raise SoftTimeLimitExceeded
        return entry

    monkeypatch.setattr(HeldClaim, step, strike_after)
    interrupted.apply((1,))
    entry = interrupted.entry_for(1)
    assert struck
    assert len(server.accepted) == 1
    assert entry.attempts == 1
    assert [(one.number, one.outcome) for one in entry.history] == [(1, DeliveryStatus.ACCEPTED)]
