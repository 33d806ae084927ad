"""The page that ``manage.py idempotency show`` prints: clear times, and commands that can be typed."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from celery_idempotent.ledger.entry import Delivery, Entry, Recipient
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.management.commands.idempotency import Command
from celery_idempotent.operations.display import page, plain

NOW = datetime(2026, 5, 1, 12, 30, tzinfo=timezone.utc)
BERLIN = timezone(timedelta(hours=2))
DELIVERY = Delivery("0", Recipient("a" * 64, "a***@example.com"), DeliveryStatus.IN_DOUBT, "<m@shop>")
ENTRY = Entry("1:" + "ab" * 32, "invoice", Status.IN_DOUBT, "task-1", created_at=NOW, deliveries=(DELIVERY,))


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("deadline", [None, NOW + timedelta(minutes=1)])
def test_every_command_that_is_named_can_be_typed(status: Status, deadline: datetime | None) -> None:
    """With all that it needs: nobody looks up an option at three in the morning."""
    told = page(replace(ENTRY, status=status, deadline=deadline), (), NOW)
    parser = Command().create_parser("manage.py", "idempotency")
    for line in re.findall(r"manage\.py idempotency ([^`\n]+)", told):
        assert parser.parse_args(shlex.split(line)).subcommand == line.split()[0]


def test_times_are_in_utc_and_say_so() -> None:
    """Whatever zone they come in."""
    assert "2026-05-01 12:30:00Z" in page(replace(ENTRY, created_at=NOW.astimezone(BERLIN)), (), NOW)


def test_what_webhooks_told_is_shown() -> None:
    """On the page, and to machines."""
    told = replace(ENTRY, deliveries=(replace(DELIVERY, events=(("bounced", NOW),)),))
    assert re.search(r"a\*\*\*@example\.com +bounced +2026-05-01 12:30:00Z", page(told, (), NOW))
    (delivery,) = plain(told, ())["deliveries"]
    assert delivery["events"] == [{"kind": "bounced", "at": "2026-05-01T12:30:00+00:00"}]


def test_an_opaque_body_has_no_message_id_to_look_for() -> None:
    """Its traces are elsewhere."""
    assert "Look for the Message-ID" in page(ENTRY, (), NOW)
    assert "Message-ID" not in page(replace(ENTRY, deliveries=()), (), NOW)
