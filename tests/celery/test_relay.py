"""The relay: what it makes of each state of an email, of trouble, and of being told to stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.local import Proxy
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.db import OperationalError

from celery_idempotent import (
    DeliveryInDoubt,
    IdempotentEmailTask,
    LedgerUnavailable,
    dispatch,
    maintenance,
    outbox,
)
from celery_idempotent.core.errors import EntryUnreadable
from celery_idempotent.core.offers import Offer
from celery_idempotent.core.outcomes import Asker, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus, Status
from celery_idempotent.identity import HEADER
from celery_idempotent.models import OutboxMessage
from celery_idempotent.receivers import forget_revoked
from celery_idempotent.relay import Next, Pass, Relay, judge
from celery_idempotent.stores import outbox as store
from tests.support.mailserver import ScriptedSMTP
from tests.support.seed import Seed

pytestmark = pytest.mark.django_db(transaction=True)
app = Celery("relay", broker="memory://", backend="cache+memory://", set_as_current=False)
DAY = timedelta(days=1)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="relayed")
def relayed(n: int) -> None: ...


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="daily-relayed", window=DAY)
def daily(n: int) -> None: ...


@pytest.fixture(autouse=True)
def _quiet(memory_ledger: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty ledger, and nothing published but by the relay."""
    monkeypatch.setattr(outbox, "_publish", lambda *_: None)
    yield
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("celery", durable=True)
        connection.default_channel.queue_purge("celery")


def make_due() -> None:
    OutboxMessage.objects.update(due_at=datetime(2020, 1, 1, tzinfo=timezone.utc))


def lost(task: Any, n: int = 1) -> str:
    """Enqueue, publish, and let the broker lose it; it is due again. Returns the task id."""
    result = task.enqueue(n)
    OutboxMessage.objects.filter(task_id=result.id).update(tries=1)
    make_due()
    return result.id


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
    clock = memory_ledger.store._clock
    memory_ledger.store._clock = lambda: clock() + timedelta(seconds=200)
    assert Relay(app).once().published == 1


@pytest.mark.parametrize(("seconds", "becomes"), [(86_400.0, "published"), (30.0, "waiting")])
def test_a_doubt_that_the_provider_would_recognise_is_published(seconds: float, becomes: str) -> None:
    """Also with "hold": its next run offers the same under the same key, as long as there is time for that."""
    seed = Seed(relayed, 1, by=lost(relayed))
    offer = Offer("account-key", seconds, "sealed")
    begun = seed.ledger.begin(seed.claimed(), seed.targets, "<m@seed>", seed.asker, seed.policy, offer)
    silence = dict.fromkeys(seed.targets, Reply(DeliveryStatus.IN_DOUBT))
    seed.ledger.settle(begun, silence, "<m@seed>", seed.asker, seed.policy)
    assert getattr(Relay(app).once(), becomes) == 1


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="relayed-pair", send_timeout=60)
def pair(n: int) -> str:
    for word in ("first", "second"):
        EmailMessage(word, "body", to=["ann@example.com"]).send()
    return "both"


@app.task(bind=True, base=IdempotentEmailTask, key_fields=("n",), name="relayed-breaking")
def breaking(self: Any, n: int) -> None:
    raise ValueError("before the end of the body")


def delivered(task: Any, task_id: str) -> Any:
    """What the worker does with the message that the relay has published."""
    note = {"id": task_id, "key": task.key_for(1), "fingerprint": "", "label": "", "outbox": "default"}
    return task.apply((1,), task_id=task_id, headers={HEADER: note})


def test_an_unfinished_body_is_published_until_it_is_finished(tracked: None, settings: Any) -> None:
    """P2: as long as its messages get lost; then message 2 goes out, once, and the row goes."""
    task_id = lost(pair)
    Seed(pair, 1, by=task_id).unfinished()
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        for _ in range(3):
            assert Relay(app).once().published == 1
            make_due()
        assert delivered(pair, task_id).get() == "both"
        assert (OutboxMessage.objects.count(), len(server.accepted)) == (0, 1)
        assert b"Subject: second" in server.accepted[0].data
        assert delivered(pair, task_id).get() == "both"
        assert len(server.accepted) == 1


def test_a_worker_that_dies_after_the_end_leaves_a_row_that_is_removed(memory_ledger: Any) -> None:
    """The publishing ends with the body: finished, its row is one like any other."""
    task_id = lost(pair)
    entry = Seed(pair, 1, by=task_id).unfinished()
    memory_ledger.store.swap(replace(entry, unfinished=False), entry.version)
    assert Relay(app).once().removed == 1


def test_a_body_that_fails_at_its_end_is_not_published_for_ever(tracked: None) -> None:
    """Given up by its own task, as any other email."""
    task_id = lost(breaking)
    Seed(breaking, 1, by=task_id).unfinished()
    assert Relay(app).once().published == 1
    make_due()
    assert isinstance(delivered(breaking, task_id).result, ValueError)
    assert Relay(app).once() == Pass()
    assert OutboxMessage.objects.count() == 0


def test_a_body_that_the_ledger_cannot_see_into_any_more_is_not_published_for_ever() -> None:
    """P1: its worker answers it as a duplicate, whatever the relay thinks of it, and removes the row."""
    task_id = lost(pair)
    Seed(pair, 1, by=task_id).unfinished()
    assert Relay(app).once().published == 1
    assert delivered(pair, task_id).get() is None
    assert OutboxMessage.objects.count() == 0


def test_an_unfinished_body_whose_task_is_gone_waits_for_it(caplog: Any) -> None:
    """P2: nobody can finish it without its task, and the log says so, until there is one again."""
    task_id = lost(pair)
    Seed(pair, 1, by=task_id).unfinished()
    OutboxMessage.objects.update(task="a task that is no more")
    outcome = Relay(app).once()
    assert (outcome.removed, outcome.faults.total()) == (0, 1)
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize("in_doubt", ["resend", lambda entry: None])
def test_doubt_that_a_claim_can_settle_is_published(in_doubt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``resend`` or a verifier the next claim decides, so there has to be one."""
    monkeypatch.setattr(relayed, "in_doubt", in_doubt)
    task_id = lost(relayed)
    seeds(task_id)["in doubt"]()
    assert Relay(app).once().published == 1


def test_what_an_operator_releases_goes_out(memory_ledger: Any) -> None:
    """In doubt it waits with its arguments; once somebody has decided "not sent", it is published."""
    task_id = lost(relayed)
    entry = seeds(task_id)["in doubt"]()
    assert Relay(app).once().waiting == 1
    memory_ledger.store.swap(replace(entry, status=Status.RELEASED), entry.version)
    make_due()
    assert Relay(app).once().published == 1


def test_a_window_makes_it_a_new_email(memory_ledger: Any) -> None:
    """Sent by another task yesterday is not an answer for today; sent an hour ago is."""
    Seed(daily, 1, by="yesterday", window=86_400.0).sent(None)
    task_id = lost(daily)
    stored = memory_ledger.store.get(daily.key_for(1))
    asker, rules = Asker(daily.key_for(1), "daily-relayed", task_id), Policy(window=86_400.0)
    assert judge(stored, asker, rules) is Next.REMOVE
    assert judge(replace(stored, now=stored.now + DAY), asker, rules) is Next.PUBLISH
    assert (
        judge(replace(stored, now=stored.now + DAY), replace(asker, task_id="yesterday"), rules) is Next.REMOVE
    )


def test_a_ledger_that_is_down_stops_nothing_but_repetitions(
    memory_ledger: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """What was never published goes out, the rest waits, and one line says why."""

    def down(keys: Any) -> Any:
        raise LedgerUnavailable("down")

    lost(relayed, 1)
    lost(relayed, 2)
    relayed.enqueue(3)
    make_due()
    monkeypatch.setattr(memory_ledger.store, "get_many", down)
    outcome = Relay(app).once()
    assert (outcome.published, outcome.waiting) == (1, 2)
    assert caplog.text.count("does not answer") == 1


def test_an_entry_that_nobody_can_read_keeps_nobody_else_waiting(
    memory_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is published, and its worker says what is wrong; the others are judged as ever."""
    get = memory_ledger.store.get
    broken = relayed.key_for(2)

    def read(key: str) -> Any:
        if key == broken:
            raise EntryUnreadable(f"{key}: a newer format")
        return get(key)

    Seed(relayed, 1, by=lost(relayed, 1)).sent(None)
    lost(relayed, 2)
    monkeypatch.setattr(memory_ledger.store, "get", read)
    outcome = Relay(app).once()
    assert (outcome.removed, outcome.published) == (1, 1)


def test_what_the_ledger_may_have_forgotten_is_not_sent_again(caplog: Any) -> None:
    """No relay ran for longer than ``RETENTION``: nobody can know, so somebody has to look. New ones go out.

    One that was never published is no exception: another task may have sent the same and be forgotten.
    """
    relayed.enqueue_many([(n,) for n in range(4)])
    old = datetime.now(timezone.utc) - timedelta(days=91)
    OutboxMessage.objects.filter(label="n=0").update(created_at=old, tries=1)
    OutboxMessage.objects.filter(label="n=1").update(created_at=old)
    OutboxMessage.objects.filter(label="n=2").update(created_at=old, tries=1, eta=old + 2 * DAY)
    OutboxMessage.objects.filter(label="n=3").update(created_at=old + 2 * DAY, tries=1)
    make_due()
    outcome = Relay(app).once()
    assert (outcome.published, sum(outcome.faults.values())) == (2, 2)
    held = OutboxMessage.objects.exclude(error="")
    assert {row.label for row in held} == {"n=0", "n=1"}
    assert all("RETENTION" in row.error for row in held)
    assert caplog.text.count("may have forgotten") == 1
    assert held.update(eta=datetime.now(timezone.utc)) == 2, "as its text says"
    make_due()
    assert Relay(app).once().published == 4


def test_an_old_message_is_judged_though_it_was_never_published() -> None:
    """What the ledger still knows decides: sent by another task, it is removed, and not sent a second time."""
    for n in (1, 2):
        relayed.enqueue(n)
    Seed(relayed, 1, by="another").sent(None)
    Seed(relayed, 2, by="another").released()
    OutboxMessage.objects.update(created_at=datetime.now(timezone.utc) - timedelta(days=91))
    make_due()
    outcome = Relay(app).once()
    assert (outcome.removed, outcome.published, outcome.faults.total()) == (1, 1, 0)
    assert published() == ["n=2"]


def passes(days: float) -> None:
    """Let time pass for the rows of the outbox."""
    span = timedelta(days=days)
    for row in OutboxMessage.objects.all():
        moments = ("created_at", "published_at", "due_at", "eta")
        changed = {name: getattr(row, name) - span for name in moments if getattr(row, name)}
        OutboxMessage.objects.filter(pk=row.pk).update(**changed)


@pytest.mark.parametrize("at_once", [True, False], ids=["published and lost", "not published"])
def test_a_reminder_for_a_day_beyond_the_retention_is_sent(
    at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for in 120 days, with ``RETENTION`` 90: its age counts from its time, not from the call."""
    if at_once:
        monkeypatch.undo()
    task_id = relayed.enqueue_with((1,), countdown=120 * 86_400).id
    assert published() == (["n=1"] if at_once else [])
    passes(100)
    assert Relay(app).once().published == (not at_once), "a message is with the broker from now on"
    published()
    passes(19.9)
    assert Relay(app).once() == Pass()
    passes(0.2)
    assert Relay(app).once().published == 1
    assert published() == ["n=1"]
    note = {"id": task_id, "key": relayed.key_for(1), "fingerprint": "", "label": "", "outbox": "default"}
    relayed.apply((1,), task_id=task_id, headers={HEADER: note})
    assert relayed.entry_for(1).status is Status.SENT
    assert not OutboxMessage.objects.exists()


def test_options_that_cannot_be_used_stop_only_their_own_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A task was deployed with a window that is none: its messages wait, and those of others are dealt with."""
    for task, n in ((relayed, 1), (daily, 2)):
        Seed(task, n).sent(None)
        lost(task, n)
    monkeypatch.setattr(type(app.tasks["daily-relayed"]), "window", 3600)
    outcome = Relay(app).once()
    assert (outcome.published, outcome.removed, outcome.waiting) == (0, 1, 1)
    assert "messages of daily-relayed wait: its options cannot be used" in caplog.text


def test_a_poisoned_message_keeps_nobody_waiting() -> None:
    """One that cannot be read stays behind with the reason; the others go out in order of their age."""
    for n in range(5):
        relayed.enqueue(n)
        due_at = datetime(2020, 1, 1, tzinfo=timezone.utc) - n * DAY
        OutboxMessage.objects.filter(label=f"n={n}").update(due_at=due_at)
    OutboxMessage.objects.filter(label="n=1").update(payload="nonsense")
    outcome = Relay(app, batch=2).once()
    assert (outcome.published, sum(outcome.faults.values())) == (4, 1)
    assert published() == ["n=4", "n=3", "n=2", "n=0"]
    row = OutboxMessage.objects.get(tries=0)
    assert row.label == "n=1"
    assert "cannot be read" in row.error


def published() -> list[str]:
    """Return the labels of the messages in the broker, in their order."""
    with app.connection_for_write() as connection:
        channel, found = connection.default_channel, []
        while message := channel.basic_get("celery", no_ack=True):
            found.append(message.headers["celery_idempotent"]["label"])
        return found


def test_the_limit_and_the_stop_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass for beat is bounded; one that is told to stop finishes its message and gives the rest back."""
    relayed.enqueue_many([(n,) for n in range(10)])
    make_due()
    assert Relay(app, batch=3).once(limit=4).published == 4
    relay = Relay(app, batch=5)
    send = relayed.apply_async

    def stopped(*args: Any, **options: Any) -> Any:
        relay.stop.set()
        return send(*args, **options)

    monkeypatch.setattr(relayed, "apply_async", stopped)
    assert relay.once().published == 1
    monkeypatch.undo()
    assert OutboxMessage.objects.filter(tries=0).count() == 5
    assert Relay(app).once().published == 5, "due at once"


@pytest.mark.parametrize("error", [dispatch.BrokerDown("away"), OperationalError("away")])
def test_the_pauses_grow_while_nobody_answers(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """1, 2, 4 … 60 seconds, one line each; back to the interval as soon as it goes well."""
    relay = Relay(app)
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 9:
            relay.stop.set()
        return relay.stop.is_set()

    def once(limit: Any = None) -> Pass:
        if len(pauses) < 8:
            raise error
        return Pass()

    monkeypatch.setattr(relay.stop, "wait", wait)
    monkeypatch.setattr(relay, "once", once)
    relay.run(0.5)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 0.5]
    assert caplog.text.count("next try in") == 8
    assert caplog.text.count("goes on") == 1


def test_beats_task_makes_one_pass(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """It is registered under its name, and a broker that is away is a line in the log, not a failure."""
    assert "celery_idempotent.relay" in app.tasks
    relayed.enqueue(1)
    make_due()
    app.tasks["celery_idempotent.relay"].apply().get()
    assert OutboxMessage.objects.get().tries == 1

    def away(*_: Any) -> Any:
        raise dispatch.BrokerDown("away")

    monkeypatch.setattr(maintenance.Relay, "once", away)
    app.tasks["celery_idempotent.relay"].apply().get()
    assert "the next pass goes on: away" in caplog.text


def test_the_command_makes_one_pass(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it did; trouble is an error with a clear text; nonsense is refused."""
    monkeypatch.setattr("celery_idempotent.relay.current_app", Proxy(lambda: app))
    relayed.enqueue(1)
    make_due()
    call_command("idempotency", "relay")
    assert "1 published, 0 done, 0 waiting" in capsys.readouterr().out
    for wrong in (["--interval", "0"], ["--batch", "0"], ["--batch", "501"]):
        with pytest.raises(CommandError, match="positive"):
            call_command("idempotency", "relay", *wrong)

    def away(*_: Any) -> Any:
        raise dispatch.BrokerDown("the broker is away")

    monkeypatch.setattr(Relay, "once", away)
    with pytest.raises(CommandError, match=r"the broker is away\. What waits is kept"):
        call_command("idempotency", "relay")


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_an_interval_that_is_none_is_refused(interval: str) -> None:
    """Not a number would be a pass after the other without a pause."""
    with pytest.raises(CommandError, match="--interval has to be positive"):
        call_command("idempotency", "relay", f"--interval={interval}")


def test_relays_side_by_side_publish_each_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that another relay holds are not taken."""
    relayed.enqueue_many([(n,) for n in range(6)])
    make_due()
    first = store.take("default", 4)
    assert Relay(app).once().published == 2
    assert len(first) == 4


def test_a_revoked_or_expired_message_is_not_owed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that drops it tells the outbox; a plain task's revocation is none of its business."""
    task_id = lost(relayed)

    class Request:
        id = task_id
        headers: Any = None

    Request.headers = {}
    forget_revoked(request=Request())
    assert OutboxMessage.objects.count() == 1
    Request.headers = {HEADER: {"id": task_id, "key": "k", "fingerprint": "", "label": "", "outbox": "default"}}
    forget_revoked(request=Request())
    assert OutboxMessage.objects.count() == 0


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="skipping", on_conflict="skip")
def skipping(n: int) -> None: ...


@pytest.mark.parametrize(("task", "state"), [(relayed, "in doubt"), (skipping, "claimed")])
def test_the_worker_removes_only_what_has_ended(task: Any, state: str) -> None:
    """In doubt, the row stays for the operator's decision; skipped, until whoever works on it has its end."""
    task_id = lost(task)
    seed = Seed(task, 1, by="another")
    seed.claimed() if state == "claimed" else seed.settled(DeliveryStatus.IN_DOUBT)
    note = {"id": task_id, "key": task.key_for(1), "fingerprint": "", "label": "", "outbox": "default"}
    result = task.apply((1,), task_id=task_id, headers={HEADER: note})
    assert isinstance(result.result, DeliveryInDoubt) == (state == "in doubt")
    assert OutboxMessage.objects.count() == 1
