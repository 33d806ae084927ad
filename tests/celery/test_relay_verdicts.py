"""The relay: what becomes of a message, by the state of its email and by what its worker says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, PayloadMismatch
from celery_idempotent.email_types.job_note import HEADER
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.outcomes import Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.provider_offers import Offer
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import OutboxVerdict, Pass, Relay, judge
from celery_idempotent.outbox.cleanup import forget_revoked
from celery_idempotent.testing import hold
from tests.celery.outbox_tasks import DAY, Broker, app, daily, delivered, lost, make_due, note, relayed
from tests.support.seeded_entries import Seed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quiet")]


def seeds(by: str) -> dict[str, Any]:
    """What can be in the ledger, and how it gets there."""
    accepted, doubt = DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT
    seed = Seed(relayed, 1, by=by)
    return {
        "nothing": lambda: None,
        "claimed": seed.claimed,
        "sending": seed.sending,
        "released": seed.released,
        "released for its retry": lambda: seed.released(100),
        "sent": lambda: seed.sent(None),
        "sent, unfinished": seed.unfinished,
        "failed": lambda: seed.failed(accepted),
        "in doubt": lambda: seed.settled(doubt),
        "cancelled": seed.cancelled,
    }


@pytest.mark.parametrize(
    ("state", "own", "others"),
    [
        ("nothing", "published", "published"),
        ("claimed", "waiting", "waiting"),
        ("sending", "waiting", "waiting"),
        ("released", "published", "published"),
        ("released for its retry", "waiting", "waiting"),
        ("sent", "removed", "removed"),
        ("sent, unfinished", "published", "removed"),
        ("failed", "removed", "published"),
        ("in doubt", "waiting", "waiting"),
        ("cancelled", "removed", "removed"),
    ],
)
@pytest.mark.parametrize("mine", [True, False])
def test_what_becomes_of_a_message(state: str, own: str, others: str, mine: bool) -> None:
    """Ended: removed. At work, or for an operator to decide: it waits. No sign of life: published again.

    Another task's failure is not this one's; another task's send is, as the email has gone out. A body that was
    cut off is finished by the message of its own task.
    """
    task_id = lost(relayed)
    seeds(task_id if mine else "another")[state]()
    outcome = Relay(app).once()
    wanted = own if mine else others
    assert {name: getattr(outcome, name) for name in ("published", "removed", "waiting")} == {
        **dict.fromkeys(("published", "removed", "waiting"), 0),
        wanted: 1,
    }
    assert OutboxMessage.objects.count() == (0 if wanted == "removed" else 1)
    assert Relay(app).once() == Pass(), "not again before its time"


@pytest.mark.parametrize("state", ["claimed", "sending", "released for its retry"])
def test_life_that_has_ended_is_no_sign(memory_ledger: Any, state: str) -> None:
    """A lease, a deadline or a reservation that has passed: the worker was killed, the message is gone."""
    task_id = lost(relayed)
    seeds(task_id)[state]()
    clock = memory_ledger.store.clock
    memory_ledger.store.clock = lambda: clock() + timedelta(seconds=200)
    assert Relay(app).once().published == 1


@pytest.mark.parametrize(("seconds", "becomes"), [(86_400.0, "published"), (30.0, "waiting")])
def test_a_doubt_that_the_provider_would_recognise_is_published(seconds: float, becomes: str) -> None:
    """Also with "hold": its next run offers the same under the same key, as long as there is time for that."""
    seed = Seed(relayed, 1, by=lost(relayed))
    offer = Offer("account-key", seconds, "sealed")
    begun = hold(seed.ledger, seed.claimed(), seed.claimant, seed.policy).begin(seed.targets, "<m@seed>", offer)
    silence = dict.fromkeys(seed.targets, Reply(DeliveryStatus.IN_DOUBT))
    hold(seed.ledger, begun, seed.claimant, seed.policy).settle(silence, "<m@seed>")
    assert getattr(Relay(app).once(), becomes) == 1


@pytest.mark.parametrize("in_doubt", ["resend", lambda entry: None])
def test_doubt_that_a_claim_can_settle_is_published(in_doubt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``resend`` or a verifier the next claim decides, so there has to be one."""
    monkeypatch.setattr(relayed, "in_doubt", in_doubt)
    task_id = lost(relayed)
    seeds(task_id)["in doubt"]()
    assert Relay(app).once().published == 1


def test_what_was_sent_again_in_doubt_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``resend``, a server whose replies always get lost would else take a copy with each round."""
    monkeypatch.setattr(relayed, "in_doubt", "resend")
    seed = Seed(relayed, 1, by=lost(relayed), in_doubt="resend")
    seed.settled(DeliveryStatus.IN_DOUBT)
    seed.settled(DeliveryStatus.IN_DOUBT)
    assert Relay(app).once().waiting == 1


def test_what_an_operator_releases_goes_out(memory_ledger: Any) -> None:
    """In doubt it waits with its arguments; once somebody has decided "not sent", it is published."""
    task_id = lost(relayed)
    entry = seeds(task_id)["in doubt"]()
    assert Relay(app).once().waiting == 1
    memory_ledger.store.swap(replace(entry, status=Status.RELEASED, deadline=None), entry.version)
    make_due()
    assert Relay(app).once().published == 1


def test_a_window_makes_it_a_new_email(memory_ledger: Any) -> None:
    """Sent by another task yesterday is not an answer for today; sent an hour ago is."""
    Seed(daily, 1, by="yesterday", window=86_400.0).sent(None)
    task_id = lost(daily)
    stored = memory_ledger.store.get(daily.key_for(1))
    claimant, rules = Claimant(daily.key_for(1), "daily-relayed", task_id), Policy(window=86_400.0)
    assert judge(stored, claimant, rules) is OutboxVerdict.REMOVE
    assert judge(replace(stored, now=stored.now + DAY), claimant, rules) is OutboxVerdict.PUBLISH
    assert (
        judge(replace(stored, now=stored.now + DAY), replace(claimant, task_id="yesterday"), rules)
        is OutboxVerdict.REMOVE
    )


def test_what_was_withdrawn_before_the_window_is_no_answer_either(memory_ledger: Any) -> None:
    """P2: withdrawn yesterday, today's email is owed, and its message lost. An hour ago: answered."""
    released = Seed(daily, 1, by="yesterday", window=86_400.0).released()
    Operator(memory_ledger, "ann", "not today").cancel(released)
    task_id = lost(daily)
    stored = memory_ledger.store.get(daily.key_for(1))
    claimant, rules = Claimant(daily.key_for(1), "daily-relayed", task_id), Policy(window=86_400.0)
    assert judge(stored, claimant, rules) is OutboxVerdict.REMOVE
    later = replace(stored, now=stored.now + DAY)
    assert judge(later, claimant, rules) is OutboxVerdict.PUBLISH
    assert judge(later, replace(claimant, task_id="yesterday"), rules) is OutboxVerdict.REMOVE
    assert judge(later, claimant, Policy()) is OutboxVerdict.REMOVE


def test_a_revoked_or_expired_message_is_not_owed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that drops it tells the outbox; a plain task's revocation is none of its business."""
    task_id = lost(relayed)

    class Request:
        id = task_id
        headers: Any = None

    Request.headers = {}
    forget_revoked(request=Request())
    assert OutboxMessage.objects.count() == 1
    Request.headers = {HEADER: note(relayed, task_id)}
    forget_revoked(request=Request())
    assert OutboxMessage.objects.count() == 0


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="strict", on_mismatch="raise")
def strict(n: int, text: str = "") -> None: ...


@pytest.mark.parametrize("state", ["failed", "claimed"])
def test_a_call_that_is_refused_for_its_content_has_ended(broker: Broker, state: str) -> None:
    """Its result says so, and its row goes with its arguments: it would come again for ever, and be refused."""
    lost(strict)
    assert Relay(app).once().published == 1
    seed = Seed(strict, 1, "other content", by="another")
    seed.failed(DeliveryStatus.ACCEPTED) if state == "failed" else seed.claimed()
    assert isinstance(broker.work()[0].result, PayloadMismatch)
    assert OutboxMessage.objects.count() == 0


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="skipping", on_conflict="skip")
def skipping(n: int) -> None: ...


@pytest.mark.parametrize(("task", "state"), [(relayed, "in doubt"), (skipping, "claimed")])
def test_the_worker_removes_only_what_has_ended(task: Any, state: str) -> None:
    """In doubt, the row stays for the operator's decision; skipped, until whoever works on it has its end."""
    task_id = lost(task)
    seed = Seed(task, 1, by="another")
    seed.claimed() if state == "claimed" else seed.settled(DeliveryStatus.IN_DOUBT)
    assert isinstance(delivered(task, task_id).result, DeliveryInDoubt) == (state == "in doubt")
    assert OutboxMessage.objects.count() == 1
