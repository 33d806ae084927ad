"""Emails in the ledger for the commands to find, and the commands, called as a person would."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from celery import Celery
from django.core.management import CommandError, call_command

from celery_idempotent import Status, wiring
from celery_idempotent.core.entry import Recipient
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Asker, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.identity import as_note, asker_of

TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250, "queued as 4711")}
DOUBTFUL = {TARGET: Reply(DeliveryStatus.IN_DOUBT, None, "connection lost")}
POLICY = Policy(send_timeout=0)
"""Doubts can be resolved at once."""
WHY = ("--reason", "ticket 5", "--actor", "ann")


def asker(app: Celery, order_id: Any = 7, task_id: str = "task-7") -> Asker:
    task = app.tasks["commanded"]
    return asker_of(task, as_note(task._identify((order_id, "ann@example.com"), {}), task_id), "worker@host")


def made(ledger: Ledger, who: Asker, replies: Any = ACCEPTED) -> Any:
    """An email that is sent, or in doubt."""
    entry = ledger.claim(who, POLICY).entry
    entry = ledger.begin(entry, [TARGET], "<m@shop>", who, POLICY)
    entry = ledger.settle(entry, replies, "<m@shop>", who, POLICY)
    if entry.status is not Status.IN_DOUBT:
        entry = ledger.complete(entry, {"ok": 1})
    if mirror := wiring.get_mirror():
        mirror.keep(entry)
    return entry


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("idempotency", *arguments, stdout=out, no_color=True)
    return out.getvalue()


def refused(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as error:
        run(*arguments)
    return error.value


def entry_of(ledger: Ledger, key: str) -> Any:
    stored = ledger.store.get(key)
    assert stored is not None
    return stored.entry
