"""The mirror: the tables show what a ledger in Redis knows, and nobody waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage
from django.db import connections

from celery_idempotent import IdempotentEmailTask, Status
from celery_idempotent.exceptions import LedgerUnavailable
from celery_idempotent.models import Delivery, LogicalEmail, SendAttempt
from celery_idempotent.stores import factory
from celery_idempotent.stores.database.mirror import DatabaseMirror
from tests.support.mailserver import ScriptedSMTP
from tests.support.seeded_entries import Seed
from tests.support.servers import Redis

pytestmark = pytest.mark.process

app = Celery("mirrored", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(
    bind=True,
    base=IdempotentEmailTask,
    key_fields=("n",),
    name="mirrored",
    autoretry_for=(OSError,),
    retry_kwargs={"countdown": 0},
)
def mirrored(self: Any, n: int) -> str:
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    return "sent"


@pytest.fixture
def mirror(keep_ledger_in: Callable[[str], None], tracked: None, db: None) -> DatabaseMirror:
    """A ledger in Redis and its mirror in the test's database."""
    keep_ledger_in("redis")
    mirror = factory.get_ledger(app).mirror
    assert mirror is not None
    return mirror


def same_as_ledger(mirror: DatabaseMirror) -> None:
    """Compare every row with the entry that decides."""
    entry = mirrored.entry_for(1)
    row = LogicalEmail.objects.get()
    for name in ("key", "version", "owner", "generation", "attempts", "result", "error", "sent_at", "begun_at"):
        assert getattr(row, name) == getattr(entry, name), name
    assert row.status == entry.status
    assert [(d.recipient, d.status, d.message_id, d.code) for d in Delivery.objects.order_by("pk")] == [
        (d.recipient.shown, d.status.value, d.message_id, d.code) for d in entry.deliveries
    ]
    assert [
        (a.number, a.outcome, a.started_at, a.ended_at) for a in SendAttempt.objects.order_by("number")
    ] == [(a.number, a.outcome.value, a.started_at, a.ended_at) for a in entry.history]


def test_each_end_of_a_run_is_mirrored(mirror: DatabaseMirror, server: ScriptedSMTP) -> None:
    """Refused and released, then sent: recipients and attempts as well."""
    server.script["rcpt"] = ["450 later", "250 ok"]
    assert mirrored.apply((1,)).get() == "sent"
    same_as_ledger(mirror)
    assert SendAttempt.objects.count() == 2
    assert mirrored.apply((1,)).get() == "sent"
    assert LogicalEmail.objects.get().status == Status.SENT


def test_an_older_state_never_covers_a_newer_one(mirror: DatabaseMirror, server: ScriptedSMTP) -> None:
    """Runs end in one order and reach the database in another."""
    mirrored.apply((1,))
    entry = mirrored.entry_for(1)
    assert mirror.show(replace(entry, version=entry.version - 1, status=Status.RELEASED))
    same_as_ledger(mirror)


def test_a_database_that_is_down_holds_nothing_up(
    mirror: DatabaseMirror, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mail goes out; what the mirror lacks is noted, not tried with every email, and caught up."""
    tried = []

    def down(entry: Any) -> None:
        tried.append(entry.key)
        raise LedgerUnavailable("the database is down")

    with monkeypatch.context() as broken:
        broken.setattr(mirror, "_write", down)
        assert [mirrored.apply((n,)).get() for n in (1, 2)] == ["sent", "sent"]
        assert mirrored.entry_for(1).status is Status.SENT
        assert len(tried) == 1
        with pytest.raises(LedgerUnavailable):
            mirror.catch_up()
    assert not LogicalEmail.objects.exists()
    assert mirror.catch_up() == 2
    assert mirror.catch_up() == 0
    assert LogicalEmail.objects.filter(status="sent").count() == 2
    mirrored.apply((3,))
    assert LogicalEmail.objects.count() == 3, "and from then on it is kept again"


def test_a_redelivery_mirrors_what_its_killed_predecessor_could_not(
    mirror: DatabaseMirror, server: ScriptedSMTP
) -> None:
    """Killed after completion and before the mirror: the same task id comes again."""
    first = mirrored.apply((1,))
    LogicalEmail.objects.all().delete()
    mirrored.apply((1,), task_id="another")
    assert not LogicalEmail.objects.exists()
    assert mirrored.apply((1,), task_id=first.id).get() == "sent"
    same_as_ledger(mirror)


def test_an_email_that_expired_and_began_anew(mirror: DatabaseMirror, server: ScriptedSMTP) -> None:
    """Its versions count from the start again; the row follows, and what belonged to the old one goes."""
    server.script["rcpt"] = ["450 later", "250 ok"]
    mirrored.apply((1,))
    assert SendAttempt.objects.count() == 2
    mirror.store.client.delete(mirror.store.place(mirrored.key_for(1)))
    assert mirrored.apply((1,)).get() == "sent"
    same_as_ledger(mirror)
    assert SendAttempt.objects.count() == 1


def test_what_a_claim_finds_in_doubt_is_mirrored(mirror: DatabaseMirror) -> None:
    """The process that left it so is dead: operators see it all the same."""
    seed = Seed(mirrored, 1, send_timeout=0.05)
    seed.ledger = factory.get_ledger(app)
    seed.sending()
    time.sleep(0.1)
    assert mirrored.apply((1,)).state == "FAILURE"
    assert LogicalEmail.objects.get().status == Status.IN_DOUBT
    same_as_ledger(mirror)


def test_arrivals_are_counted_in_the_mirror_too(mirror: DatabaseMirror, server: ScriptedSMTP) -> None:
    """Reports are the same with either store."""
    for _ in range(3):
        mirrored.apply((1,))
    assert LogicalEmail.objects.get().arrivals == mirrored.entry_for(1).arrivals == 3


def test_a_mirror_that_was_behind_catches_up_by_itself(
    mirror: DatabaseMirror, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first email after the database is back."""

    def down(entry: Any) -> None:
        raise LedgerUnavailable("the database is down")

    with monkeypatch.context() as broken:
        broken.setattr(mirror, "_write", down)
        mirrored.apply((1,))
    mirror._not_before = 0.0
    mirrored.apply((2,))
    assert LogicalEmail.objects.count() == 2


def test_one_row_that_the_database_refuses_holds_up_no_others(
    mirror: DatabaseMirror, server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged and left out; a process that starts later catches the rest up."""
    for n in (1, 2, 3):
        mirrored.apply((n,))
        mirror.store.mark_stale(mirrored.key_for(n))
    LogicalEmail.objects.all().delete()
    write, poison = mirror._write, mirrored.key_for(2)

    def refused(entry: Any) -> None:
        if entry.key == poison:
            raise ValueError("refused")
        write(entry)

    monkeypatch.setattr(mirror, "_write", refused)
    mirror._behind = True
    mirrored.apply((4,))
    assert LogicalEmail.objects.count() == 3


def test_a_real_outage_of_the_database(redis: Redis, mirror: DatabaseMirror, settings: Any) -> None:
    """A database that nobody serves: `show` says so, and raises nothing."""
    place = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": 1,
        "NAME": "x",
        "USER": "x",
    }
    connections.settings["nowhere"] = {**connections.settings["default"], **place, "OPTIONS": {}, "TEST": {}}
    from celery_idempotent.testing import make_entry

    try:
        entry = make_entry().with_times(mirror.store.now())
        assert not DatabaseMirror(mirror.store, lambda: "nowhere").show(entry)
    finally:
        del connections.settings["nowhere"]
    assert mirror.store.stale_keys() == [entry.key]
