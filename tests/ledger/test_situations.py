"""What operators are told about an email: one table, with a row for every state that an entry can be in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import product

import pytest

from celery_idempotent.ledger.entry import Delivery, Entry, Recipient
from celery_idempotent.ledger.situations import LABELS, find_situation
from celery_idempotent.ledger.status import IN_FLIGHT, DeliveryStatus, Status

NOW = datetime(2026, 5, 1, 12, 30, tzinfo=timezone.utc)
SOON, PAST = NOW + timedelta(minutes=1), NOW - timedelta(minutes=1)
DELIVERY = Delivery("0", Recipient("a" * 64, "a***@example.com"), DeliveryStatus.IN_DOUBT, "<m@shop>")
ENTRY = Entry("1:" + "ab" * 32, "invoice", Status.SENT, "task-{1}", created_at=NOW)


def states(status: Status) -> Iterator[Entry]:
    """Yield entries in ``status`` with all that the table tells apart."""
    for deadline, unfinished, deliveries in product((None, SOON, PAST), (False, True), ((), (DELIVERY,))):
        if deadline is not None or status not in IN_FLIGHT:
            changes = {"deadline": deadline, "unfinished": unfinished, "deliveries": deliveries}
            yield replace(ENTRY, status=status, **changes)


@pytest.mark.parametrize("status", Status)
def test_every_state_has_its_row(status: Status) -> None:
    """Whose text has no gap left in it, and whose decisions have a label."""
    for entry in states(status):
        said = find_situation(entry, NOW).advice
        assert said.endswith("."), said
        assert "until -" not in said, "a time is named only where there is one"
        assert "{" not in said.replace("task-{1}", "")
        assert set(find_situation(entry, NOW).decisions) <= set(LABELS)


def test_no_text_is_there_twice_for_two_meanings() -> None:
    """Two statuses say the same only about a hand-over whose end nobody knows."""
    meanings: dict[str, set[Status]] = {}
    for status in Status:
        for entry in states(status):
            meanings.setdefault(find_situation(entry, NOW).meaning, set()).add(status)
    shared = [statuses for statuses in meanings.values() if len(statuses) > 1]
    assert all(statuses == {Status.SENDING, Status.IN_DOUBT} for statuses in shared)


def test_a_refusal_names_what_can_be_decided_instead() -> None:
    """By the words of the admin's buttons, and says what happens by itself."""
    failed = replace(ENTRY, status=Status.FAILED)
    said = find_situation(failed, NOW).suggestion
    assert said.startswith("The next call tries again for those who have not got it")
    assert said.endswith('Possible: "Allow one more sending", "Withdraw it"')
