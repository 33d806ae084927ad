"""Functions that tests of a Celery worker's life cycle, and of beat's tasks, have called in the project."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from celery import chain, chord
from celery.events import EventReceiver
from django.core import serializers
from django.utils import timezone
from django_celery_results.models import TaskResult

from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage, SendAttempt
from celery_idempotent.stores.factory import get_ledger
from tests.acceptance.app import app, collect, confirm
from tests.support.worker import wait_for

# -- duplicates ------------------------------------------------------------------------------------------------


def call_in_all_ways(order: int) -> list[Any]:
    """Return the results of an order's task and of its duplicates, published in every way there is."""
    value = confirm.delay(order).get(timeout=60)
    others = [
        confirm.delay(order),
        confirm.delay(order=order),
        confirm.apply_async((order,), {"to": "ann@example.com"}),
        app.send_task("tests.acceptance.app.confirm", (order,)),
    ]
    return [value] + [other.get(timeout=60) for other in others]


def hang_on_duplicates(order: int, other: int) -> list[Any]:
    """Return the results of a chain, a link and a chord on duplicates of ``order``, and on ``other``."""
    confirm.delay(order).get(timeout=60)
    chained = chain(confirm.si(order), collect.s()).delay().get(timeout=60)
    linked = confirm.apply_async((order,), link=collect.s())
    linked.get(timeout=60)
    signatures = [confirm.si(order), confirm.si(order), confirm.si(other)]
    chorded = chord(signatures, collect.s()).delay().get(timeout=60)
    return [chained, linked.get(), chorded]


def resend(order: int) -> list[Any]:
    """Send again, with other deliveries around it; return the resend's id, and what it and a duplicate got."""
    confirm.apply_async((order,), task_id="resent-1").get(timeout=60)
    again = confirm.resend(order, actor="ann", reason="lost").id
    for task_id in ("resent-1", "resent-2", again):
        confirm.apply_async((order,), task_id=task_id)
    return [again, [app.AsyncResult(task_id).get(timeout=60) for task_id in (again, "resent-2")]]


# -- what is told ----------------------------------------------------------------------------------------------


def read_what_is_stored(order: int) -> list[Any]:
    """Return all rows of results and ledger, and what the result of ``order`` notes about its email."""
    models = (TaskResult, LogicalEmail, Delivery, SendAttempt)
    rows = [serializers.serialize("json", model.objects.all()) for model in models]
    meta = json.loads(TaskResult.objects.get(task_args__contains=confirm.key_for(order)).meta)
    return [rows, meta["celery_idempotent"]]


def listen_to_events(order: int, doubtful: int) -> list[Any]:
    """Run ``order`` twice and ``doubtful`` once; return the email events: type, first task, whether ours."""
    heard: list[dict[str, Any]] = []
    ready = threading.Event()

    def listen() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": heard.append})
            receiver.capture(limit=None, wakeup=False)

    with patch.object(EventReceiver, "on_consume_ready", lambda *_, **__: ready.set()):
        threading.Thread(target=listen, daemon=True).start()
        assert ready.wait(20)
    confirm.apply_async((order,), task_id="first").get(timeout=60)
    confirm.delay(order).get(timeout=60)
    with suppress(Exception):
        confirm.delay(doubtful).get(timeout=60)
    end = time.monotonic() + 20
    while not any(event["type"] == "task-email-in-doubt" for event in heard) and time.monotonic() < end:
        time.sleep(0.05)
    ours = [event for event in list(heard) if "email" in event["type"]]
    key = confirm.key_for(order)
    return [[event["type"], event["first_task_id"], event["key"] == key] for event in ours]


# -- beat's tasks ----------------------------------------------------------------------------------------------


def relay_what_was_lost(order: int) -> None:
    """Write an intention whose message the broker has lost, and have beat's task relay it."""
    with patch("celery_idempotent.outbox.enqueue._publish"):
        confirm.enqueue(order)
    OutboxMessage.objects.update(tries=1, published_at=timezone.now(), due_at=timezone.now())
    app.send_task("celery_idempotent.relay")


def sweep_what_was_left(order: int) -> list[Any]:
    """Sweep a claim whose process is gone; return what was released, the status then, and who came next."""
    ledger = get_ledger(app)
    ledger.claim(Claimant(confirm.key_for(order), "confirmation", "gone"), Policy(lease=0.001))
    wait_for(ledger.store.due)
    swept = app.send_task("celery_idempotent.sweep").get(timeout=60)
    status = confirm.entry_for(order).status
    return [swept["released"], status, confirm.delay(order).get(timeout=60)["order"]]


def purge_the_older(older: int, younger: int) -> list[Any]:
    """Purge after 91 days; return what was removed, whether ``older`` is gone, and ``younger``'s status."""
    for order in (older, younger):
        confirm.delay(order).get(timeout=60)
    past = timezone.now() - timedelta(days=91)
    LogicalEmail.objects.filter(key=confirm.key_for(older)).update(updated_at=past)
    removed = app.send_task("celery_idempotent.purge").get(timeout=60)
    return [removed, confirm.entry_for(older) is None, confirm.entry_for(younger).status]
