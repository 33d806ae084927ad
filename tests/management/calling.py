"""Emails in the ledger for the commands to find, and the commands, called as a person would."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from celery import Celery
from django.core.management import CommandError, call_command

from celery_idempotent import Status
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.email_types.job_note import JobNote
from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.stores import factory
from celery_idempotent.testing import hold

TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250, "queued as 4711")}
DOUBTFUL = {TARGET: Reply(DeliveryStatus.IN_DOUBT, None, "connection lost")}
POLICY = Policy(send_timeout=0)
"""Doubts can be resolved at once."""
WHY = ("--reason", "ticket 5", "--actor", "ann")


def claimant(app: Celery, order_id: Any = 7, task_id: str = "task-7") -> Claimant:
    task = app.tasks["commanded"]
    return JobNote.of(task._identify((order_id, "ann@example.com"), {}), task_id).claimant(
        email_type_of(task), "worker@host"
    )


def made(ledger: Ledger, who: Claimant, replies: Any = ACCEPTED) -> Any:
    """An email that is sent, or in doubt."""
    entry = ledger.claim(who, POLICY).entry
    entry = hold(ledger, entry, who, POLICY).begin([TARGET], "<m@shop>")
    entry = hold(ledger, entry, who, POLICY).settle(replies, "<m@shop>")
    if entry.status is not Status.IN_DOUBT:
        entry = hold(ledger, entry).complete({"ok": 1})
    factory.get_ledger().show(entry)
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
