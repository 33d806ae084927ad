"""The relay and what goes wrong with a message, its email or its outbox: that waits, the others go out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections

from celery_idempotent import IdempotentTask, LedgerUnavailable
from celery_idempotent.exceptions import EntryUnreadable
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations import relay
from celery_idempotent.operations.relay import Relay
from celery_idempotent.outbox import rows as outbox_rows
from tests.celery.outbox_tasks import DAY, Broker, app, daily, lost, make_due, owed, relayed
from tests.support.seeded_entries import Seed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quiet")]


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


@pytest.mark.parametrize("window", [timedelta(0), 3600])
def test_options_that_cannot_be_used_stop_only_their_own_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: Any, window: Any
) -> None:
    """A task was deployed with a window that is none: its messages wait, and those of others are dealt with."""
    for task, n in ((relayed, 1), (daily, 2)):
        Seed(task, n).sent(None)
        lost(task, n)
    monkeypatch.setattr(type(app.tasks["daily-relayed"]), "window", window)
    outcome = Relay(app).once()
    assert (outcome.published, outcome.removed, outcome.waiting) == (0, 1, 1)
    assert "messages of daily-relayed wait: its options cannot be used: daily-relayed: window is" in caplog.text


def test_a_poisoned_message_keeps_nobody_waiting(broker: Broker) -> None:
    """One that cannot be read stays behind with the reason; the others go out in order of their age."""
    for n in range(5):
        relayed.enqueue(n)
        due_at = datetime(2020, 1, 1, tzinfo=timezone.utc) - n * DAY
        OutboxMessage.objects.filter(label=f"n={n}").update(due_at=due_at)
    OutboxMessage.objects.filter(label="n=1").update(payload="nonsense")
    outcome = Relay(app, batch=2).once()
    assert (outcome.published, sum(outcome.faults.values())) == (4, 1)
    assert broker.labels() == ["n=4", "n=3", "n=2", "n=0"]
    row = OutboxMessage.objects.get(tries=0)
    assert row.label == "n=1"
    assert "cannot be read" in row.error


def written(body: str = "[[1], {}]", binary: bool = False, **more: Any) -> str:
    """Return a payload of the outbox; it has no options unless they are given."""
    form = {"type": "application/json", "encoding": "utf-8", "body": body, "binary": binary}
    return json.dumps({**form, **more})


@pytest.mark.parametrize(
    "payload",
    [
        "[]",
        "7",
        '{"body": "x"}',
        written(options=None),
        written(body="###", binary=True, options={}),
        written(body="7", options={}),
        written(body="[[1], 5]", options={}),
        written(),
        written(options=[1]),
        written(options={"headers": [["x-trace", "1"]]}),
        written(options={"headers": "abc"}),
        written(options={"task_id": "another"}),
    ],
)
def test_a_message_of_another_shape_keeps_nobody_waiting(broker: Broker, payload: str) -> None:
    """Whatever one row raises concerns that row: it says why, and the next pass goes on as well."""
    for n in range(3):
        relayed.enqueue(n)
        OutboxMessage.objects.filter(label=f"n={n}").update(
            due_at=datetime(2020, 1, 1 + n, tzinfo=timezone.utc)
        )
    OutboxMessage.objects.filter(label="n=0").update(payload=payload)
    outcome = Relay(app).once()
    assert (outcome.published, sum(outcome.faults.values())) == (2, 1)
    assert broker.labels() == ["n=1", "n=2"]
    row = OutboxMessage.objects.get(tries=0)
    assert row.label == "n=0"
    assert row.error
    relayed.enqueue(3)
    make_due()
    assert Relay(app).once().published == 3


def test_a_task_that_is_gone_keeps_its_messages(broker: Broker, caplog: Any) -> None:
    """Renamed or removed: nothing is published, nothing lost, and one line says what to do."""
    for n in (1, 2):
        lost(owed, n)
    OutboxMessage.objects.update(task="old.name")
    outcome = Relay(app).once()
    assert (outcome.published, sum(outcome.faults.values())) == (0, 2)
    assert caplog.text.count("knows no task 'old.name'") == 1
    assert {row.error[:12] for row in OutboxMessage.objects.all()} == {"this process"}
    assert Relay(app).once().faults == {}, "not again right away"

    @app.task(base=IdempotentTask, key_fields=("n",), name="old.name", email_type="owed")
    def again(n: int, text: str = "") -> str:
        return "found"

    make_due()
    assert Relay(app).once().published == 2
    assert [run.get() for run in broker.work()] == ["found", "found"]
    assert not OutboxMessage.objects.exists()


def test_a_task_that_is_not_idempotent_any_more() -> None:
    """It would be published for ever: nobody would tell that it is done."""

    @app.task(name="plain-now")
    def plain(n: int) -> None: ...

    lost(owed)
    OutboxMessage.objects.update(task="plain-now")
    assert Relay(app).once().published == 0
    assert "not idempotent any more" in OutboxMessage.objects.get().error


@pytest.fixture
def missing(transactional_db: None, django_db_blocker: Any, settings: Any, tmp_path: Path) -> Iterator[None]:
    """Another database with an outbox, which comes first and has no table yet."""
    place = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other.sqlite3")}
    connections.settings["other"] = {**connections["default"].settings_dict, "TEST": {}, **place}
    settings.CELERY_IDEMPOTENT |= {"OUTBOX_DATABASES": ["other", "default"]}
    with django_db_blocker.unblock():
        yield
    connections["other"].close()
    del connections.settings["other"]
    del connections["other"]


@pytest.mark.usefixtures("missing")
def test_a_database_that_is_away_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: the messages of the others go out, and it is told all the same."""
    relayed.enqueue_with((1,), using="default")
    OutboxMessage.objects.update(due_at=outbox_rows.StoreNow())
    with pytest.raises(DatabaseError, match="no such table"):
        Relay(app).once()
    assert OutboxMessage.objects.get().tries == 1
    monkeypatch.setattr(relay, "app_or_default", lambda _: app)
    with pytest.raises(CommandError, match=r"no such table.*What waits is kept"):
        call_command("idempotency", "relay")


@pytest.mark.parametrize("payload", ["ünlesbar", "nonsense", "", "\x00"], ids=repr)
def test_a_sealed_message_that_is_damaged(settings: Any, payload: str) -> None:
    """It stays, with the reason; those behind it go out."""
    settings.CELERY_IDEMPOTENT |= {"ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}
    relayed.enqueue(1)
    OutboxMessage.objects.update(payload=payload)
    relayed.enqueue(2)
    OutboxMessage.objects.update(due_at=outbox_rows.StoreNow())
    outcome = Relay(app).once()
    assert (outcome.published, outcome.faults.total()) == (1, 1)
    assert "its arguments are encrypted" in OutboxMessage.objects.get(tries=0).error
