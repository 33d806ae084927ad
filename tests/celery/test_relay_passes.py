"""The relay's passes: how much one does, what is between two, and who starts them."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations import periodic_tasks
from celery_idempotent.operations.relay import Pass, Relay
from celery_idempotent.outbox import publish
from celery_idempotent.outbox import rows as store
from tests.celery.outbox_tasks import app, make_due, relayed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quiet")]


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


@pytest.mark.parametrize("error", [publish.BrokerDown("away"), OperationalError("away")])
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
        raise publish.BrokerDown("away")

    monkeypatch.setattr(periodic_tasks.Relay, "once", away)
    app.tasks["celery_idempotent.relay"].apply().get()
    assert "the next pass goes on: away" in caplog.text


def test_the_command_makes_one_pass(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it did; trouble is an error with a clear text; nonsense is refused."""
    monkeypatch.setattr("celery_idempotent.operations.relay.app_or_default", lambda _: app)
    relayed.enqueue(1)
    make_due()
    call_command("idempotency", "relay")
    assert "1 published, 0 done, 0 waiting" in capsys.readouterr().out
    for wrong in (["--interval", "0"], ["--batch", "0"], ["--batch", "501"]):
        with pytest.raises(CommandError, match="positive"):
            call_command("idempotency", "relay", *wrong)

    def away(*_: Any) -> Any:
        raise publish.BrokerDown("the broker is away")

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
