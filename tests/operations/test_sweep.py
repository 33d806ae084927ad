"""What a pass of the sweep does: it looks after what nobody asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import IdempotentEmailTask, Status, Verdict, signals
from celery_idempotent.ledger.entry import After, Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Duplicate, Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.provider_events import Event, mark
from celery_idempotent.ledger.provider_offers import Offer
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.models import LogicalEmail
from celery_idempotent.operations import sweep
from celery_idempotent.stores import factory
from celery_idempotent.testing import hold

app = Celery("swept", broker="memory://", backend="cache+memory://", set_as_current=False)
VERDICTS: dict[str, Verdict | Exception] = {}
TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250)}
POLICY = Policy()


@pytest.fixture(autouse=True)
def _no_verdicts() -> None:
    """Each test says what its verifier finds out."""
    VERDICTS.clear()


def verify(entry: Any) -> Verdict:
    verdict = VERDICTS[entry.label]
    if isinstance(verdict, Exception):
        raise verdict
    return verdict


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="verified-mail", in_doubt=verify)
def verified_mail(n: str) -> None: ...


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="held-mail")
def held_mail(n: str) -> None: ...


def claimant(name: str, kind: str = "held-mail", task_id: str = "task-1") -> Claimant:
    return Claimant(name, kind, task_id, label=name)


def claimed(ledger: Ledger, name: str, kind: str = "held-mail", policy: Policy = POLICY) -> Any:
    return ledger.claim(claimant(name, kind), policy).entry


def sending(ledger: Ledger, name: str, kind: str = "held-mail", policy: Policy = POLICY) -> Any:
    return hold(ledger, claimed(ledger, name, kind, policy), claimant(name, kind), policy).begin(
        [TARGET], "<m@x>"
    )


def late(ledger: Ledger, entry: Any) -> None:
    """Move the deadline of ``entry`` into the past."""
    assert ledger.store.swap(replace(entry, deadline=After(-1)), entry.version)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, str]]]:
    """The signals, by name and key."""
    seen: list[tuple[str, str]] = []
    names = ("email_in_doubt", "email_released", "email_sent")
    listeners = {}
    for name in names:

        def listen(name: str = name, **said: Any) -> None:
            seen.append((name, said["entry"].key))

        listeners[name] = listen
        getattr(signals, name).connect(listen)
    yield seen
    for name in names:
        getattr(signals, name).disconnect(listeners[name])


@pytest.fixture(params=["database", "redis"])
def ledger(request: Any, keep_ledger_in: Callable[[str], None], db: None) -> Ledger:
    """An empty ledger, with the tables as itself or as its mirror."""
    keep_ledger_in(request.param)
    return factory.get_ledger(app)


def status_of(ledger: Ledger, key: str) -> Status:
    stored = ledger.store.get(key)
    assert stored is not None
    return stored.entry.status


def test_passed_deadlines(ledger: Ledger, heard: list[tuple[str, str]], caplog: Any) -> None:
    """A lease is released, a hand-over is in doubt, and both are told; what is running stays as it is."""
    claimed(ledger, "running")
    sending(ledger, "busy")
    late(ledger, claimed(ledger, "lease"))
    late(ledger, sending(ledger, "deadline"))
    done = sweep.sweep(app=app)
    assert (done.released, done.in_doubt, done.stuck) == (1, 1, [])
    keys = ("running", "busy", "lease", "deadline")
    assert [status_of(ledger, key) for key in keys] == [
        Status.CLAIMED,
        Status.SENDING,
        Status.RELEASED,
        Status.IN_DOUBT,
    ]
    assert sorted(heard) == [("email_in_doubt", "deadline"), ("email_released", "lease")]
    assert "in doubt (deadline)" in caplog.text
    stored = ledger.store.get("deadline")
    assert stored is not None
    assert stored.entry.deliveries[0].status is DeliveryStatus.IN_DOUBT
    assert LogicalEmail.objects.get(key="deadline").status == "in_doubt", "the tables know as well"
    again = sweep.sweep(app=app)
    assert (again.released, again.in_doubt) == (0, 0)


def test_a_pass_is_bounded(ledger: Ledger) -> None:
    """It takes as many as it was told to, the oldest first."""
    for number in range(5):
        late(ledger, claimed(ledger, f"key-{number}"))
    assert [sweep.sweep(limit=2, app=app).released for _ in range(4)] == [2, 2, 1, 0]


def test_verifiers_settle_doubts(ledger: Ledger, heard: list[tuple[str, str]]) -> None:
    """By the verifier of the task; audited as the sweep's; one that raises does not know."""
    VERDICTS.update(yes=Verdict.SENT, no=Verdict.NOT_SENT, hm=Verdict.UNKNOWN, bug=ValueError("bug"))
    for name in VERDICTS:
        late(ledger, sending(ledger, name, "verified-mail"))
    late(ledger, sending(ledger, "hold"))
    late(ledger, sending(ledger, "removed", "a task that is no more"))
    done = sweep.sweep(app=app)
    assert (done.in_doubt, done.sent, done.not_sent, done.unknown) == (6, 1, 1, 2)
    found = {key: status_of(ledger, key) for key in (*VERDICTS, "hold", "removed")}
    assert found == {
        "yes": Status.SENT,
        "no": Status.RELEASED,
        "hm": Status.IN_DOUBT,
        "bug": Status.IN_DOUBT,
        "hold": Status.IN_DOUBT,
        "removed": Status.IN_DOUBT,
    }
    assert ("email_sent", "yes") in heard
    stored = ledger.store.get("yes")
    assert stored is not None
    (one,) = stored.entry.audit
    assert (one.actor, "verified-mail" in one.reason) == ("sweep", True)
    VERDICTS["hm"] = Verdict.SENT
    assert sweep.sweep(app=app).sent == 1, "found again in the tables"
    assert LogicalEmail.objects.get(key="hm").status == "sent"


def test_a_window_that_is_none_stops_no_verifier(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task's window is worth has nothing to do with its doubts, nor with those of other tasks."""
    VERDICTS.update(yes=Verdict.SENT)
    late(ledger, sending(ledger, "yes", "verified-mail"))
    monkeypatch.setattr(type(app.tasks["verified-mail"]), "window", timedelta(0))
    assert sweep.sweep(app=app).sent == 1


@pytest.mark.parametrize("how", ["verifier", "event"])
def test_what_the_sweep_settles_as_sent_is_finished_by_its_own_task(
    ledger: Ledger, heard: list[tuple[str, str]], how: str
) -> None:
    """P2: a verifier knows of the message in doubt, not of the end of the body. The tables know it as well."""
    VERDICTS.update(half=Verdict.SENT)
    entry: Any = sending(ledger, "half", "verified-mail")
    if how == "event":
        told = Event(
            "delivered", datetime.now(timezone.utc), 1, mark("<m@x>", entry.begun_at), 1, TARGET[1].digest
        )
        heard_of = ledger.hear("half", told)
        assert heard_of is not None
        entry = heard_of.entry
    late(ledger, entry)
    done = sweep.sweep(app=app)
    row = LogicalEmail.objects.get(key="half")
    if how == "verifier":
        assert (done.sent, row.status, row.unfinished) == (1, "sent", True)
        assert isinstance(ledger.claim(claimant("half", "verified-mail", "task-2"), POLICY), Duplicate)
    else:
        assert (done.released, row.status) == (1, "released")
        assert heard == [("email_released", "half")]
    outcome = ledger.claim(claimant("half", "verified-mail"), POLICY)
    assert isinstance(outcome, Acquired)
    assert outcome.entry.deliveries[0].status is DeliveryStatus.ACCEPTED
    assert not hold(ledger, outcome.entry).complete("both").unfinished


def test_a_frozen_message_is_erased_once_no_provider_recognises_it(ledger: Ledger) -> None:
    """Inside its window it is needed for the next offer; afterwards the doubt is held without it."""
    kept: dict[float, Any] = {}
    for seconds in (3600.0, 0.05):
        claim = claimed(ledger, f"frozen-{seconds}")
        who = claimant(f"frozen-{seconds}")
        entry = hold(ledger, claim, who, POLICY).begin([TARGET], "<m@x>", Offer("key", seconds, "frozen text"))
        kept[seconds] = hold(ledger, entry, who, POLICY).settle(
            {TARGET: Reply(DeliveryStatus.IN_DOUBT)}, "<m@x>"
        )
    if mirror := factory.get_ledger().mirror:
        assert all(mirror.show(entry) for entry in kept.values())
    time.sleep(0.1)
    sweep.sweep(app=app)
    found = {seconds: ledger.store.get(entry.key).entry for seconds, entry in kept.items()}  # type: ignore[union-attr]
    assert [entry.status for entry in found.values()] == [Status.IN_DOUBT] * 2
    assert (found[3600.0].sealed, found[0.05].sealed) == ("frozen text", "")


def test_no_doubt_is_always_left_out(ledger: Ledger) -> None:
    """With more doubts than a pass looks at, those that cannot be settled do not stand in the way of others."""
    names = [*(f"d{n}" for n in range(6)), "last"]
    VERDICTS.update(dict.fromkeys(names, Verdict.UNKNOWN))
    for name in names:
        late(ledger, sending(ledger, name, "verified-mail"))
    assert sweep.sweep(app=app).unknown == len(names)
    VERDICTS["last"] = Verdict.SENT
    for _ in range(200):
        if status_of(ledger, "last") is Status.SENT:
            break
        sweep.sweep(limit=2, app=app)
    assert status_of(ledger, "last") is Status.SENT


def test_what_is_stuck_is_reported(ledger: Ledger, caplog: Any) -> None:
    """Released without a retry to come, in doubt: once they are old; a scheduled retry is not stuck."""
    for name in ("old", "young"):
        late(ledger, sending(ledger, name))
    entry = claimed(ledger, "waits")
    hold(ledger, entry, policy=POLICY).release(retry_in=9000)
    hold(ledger, claimed(ledger, "lost"), policy=POLICY).release()
    mirror = factory.get_ledger(app).mirror
    for name in ("waits", "lost"):
        stored = ledger.store.get(name)
        if mirror is not None and stored is not None:
            mirror.show(stored.entry)
    sweep.sweep(app=app)
    ago = LogicalEmail.objects.get(key="old").updated_at - timedelta(hours=2)
    LogicalEmail.objects.exclude(key="young").update(updated_at=ago)
    caplog.clear()
    found = {one.key: one.status for one in sweep.sweep(app=app).stuck}
    assert found == {"old": "in_doubt", "lost": "released"}
    assert caplog.text.count("stuck") == 2


def test_the_mirror_catches_up(ledger: Ledger) -> None:
    """What could not be written when it happened is written now."""
    mirror = factory.get_ledger(app).mirror
    for number in range(45):
        claimed(ledger, f"key-{number}")
        if mirror is not None:
            mirror.store.mark_stale(f"key-{number}")
    done = sweep.sweep(app=app)
    assert done.mirrored == (45 if mirror is not None else 0)
    assert LogicalEmail.objects.count() == 45


def test_a_ledger_without_tables_is_swept_too(memory_ledger: Any) -> None:
    """Deadlines, and the verifiers for the doubts just found; what is stuck cannot be listed there."""
    VERDICTS["yes"] = Verdict.SENT
    late(memory_ledger, sending(memory_ledger, "yes", "verified-mail"))
    done = sweep.sweep(app=app)
    assert (done.in_doubt, done.sent, done.stuck) == (1, 1, [])
