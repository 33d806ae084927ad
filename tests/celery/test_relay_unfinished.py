"""The relay and a body that was cut off: published until it is finished, and by then removed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Pass, Relay
from tests.celery.outbox_tasks import app, delivered, lost, make_due
from tests.support.mailserver import ScriptedSMTP
from tests.support.seeded_entries import Seed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("quiet")]


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="relayed-pair", send_timeout=60)
def pair(n: int) -> str:
    for word in ("first", "second"):
        EmailMessage(word, "body", to=["ann@example.com"]).send()
    return "both"


@app.task(bind=True, base=IdempotentEmailTask, key_fields=("n",), name="relayed-breaking")
def breaking(self: Any, n: int) -> None:
    raise ValueError("before the end of the body")


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
