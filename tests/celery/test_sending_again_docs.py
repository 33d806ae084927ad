"""The examples of docs/how-to/sending-again.md, run as they stand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery, shared_task
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.email_types.problems import problems
from celery_idempotent.ledger.entry import Entry
from celery_idempotent.ledger.policy import SendRequest
from celery_idempotent.testing import FakeClock
from tests.support.mailserver import ScriptedSMTP

PAGE = Path(__file__).parents[2] / "docs/how-to/sending-again.md"
TO = "ann@example.com"


def _examples(app: Celery) -> SimpleNamespace:
    names: dict[str, Any] = {
        "__name__": "docs_sending_again",
        "hashlib": hashlib,
        "date": date,
        "timedelta": timedelta,
        "ZoneInfo": ZoneInfo,
        "EmailMessage": EmailMessage,
        "IdempotentEmailTask": IdempotentEmailTask,
        "Entry": Entry,
        "SendRequest": SendRequest,
        # As @shared_task, for this app alone: other modules look at all tasks there are.
        "shared_task": app.task,
    }
    assert shared_task is not None
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return SimpleNamespace(**names)


app = Celery("docs", broker="memory://", backend="cache+memory://", set_as_current=False)
docs = _examples(app)


@pytest.fixture
def clock(memory_ledger: Any) -> FakeClock:
    """The ledger's clock, for the test to move."""
    memory_ledger.store.clock = clock = FakeClock()
    return clock


@pytest.fixture
def sent(clock: FakeClock, tracked: None, settings: Any) -> Iterator[Callable[[], int]]:
    """How many mails the server has taken."""
    app.conf.task_always_eager = True
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        yield lambda: len(server.accepted)
    app.conf.task_always_eager = False


def test_every_task_on_the_page_can_be_used() -> None:
    """No example declares an option that the system checks refuse."""
    tasks = [task for task in app.tasks.values() if task.name.startswith("docs_sending_again")]
    assert len(tasks) == 6
    assert [list(problems(email_type_of(task))) for task in tasks] == [[]] * 6


def test_an_order_confirmation_once_per_order(sent: Callable[[], int]) -> None:
    """Another order is another mail, the same order is not."""
    for order in (1, 1, 2, 1):
        docs.order_confirmation.delay(order, TO)
    assert sent() == 2


def test_an_onboarding_step_once_per_user(sent: Callable[[], int]) -> None:
    """Each step, each user, each once."""
    for user, step in ((1, "first"), (1, "first"), (1, "second"), (2, "first"), (2, "first")):
        docs.onboarding.delay(user, step, TO)
    assert sent() == 3


def test_a_password_reset_once_per_token(sent: Callable[[], int]) -> None:
    """A new token is a new mail; the token itself is not in the ledger."""
    for token in ("secret-1", "secret-1", "secret-2"):
        docs.password_reset.delay(token, TO)
    assert sent() == 2
    assert "secret-1" not in repr(docs.password_reset.entry_for("secret-1", TO))


def test_a_digest_once_per_iso_week(sent: Callable[[], int], clock: FakeClock) -> None:
    """Monday begins another one, the turn of the year does not; a retry on Monday is last week's."""
    days = [date(2026, 12, 28), date(2027, 1, 1), date(2027, 1, 3)]
    assert {docs.iso_week(day) for day in days} == {"2026-W53"}
    for day in days:
        docs.weekly_digest.delay(1, docs.iso_week(day), TO)
    assert sent() == 1
    docs.weekly_digest.delay(1, docs.iso_week(date(2027, 1, 4)), TO)
    docs.weekly_digest.delay(1, "2026-W53", TO)
    assert sent() == 2


def test_a_reminder_at_most_once_a_day(sent: Callable[[], int], clock: FakeClock) -> None:
    """24 hours after the last acceptance, to the second."""
    docs.cart_reminder.delay(1, TO)
    clock.forward(86399)
    docs.cart_reminder.delay(1, TO)
    assert sent() == 1
    clock.forward(1)
    docs.cart_reminder.delay(1, TO)
    docs.cart_reminder.delay(1, TO)
    assert sent() == 2


def test_a_payment_reminder_once_on_each_day_and_three_times_in_all(
    sent: Callable[[], int], clock: FakeClock
) -> None:
    """The day is Berlin's: five minutes can be enough, and 23 hours too little."""
    clock.now = datetime(2026, 6, 1, 21, 58, tzinfo=timezone.utc)  # two minutes to midnight in Berlin
    docs.payment_reminder.delay("A1", TO)
    clock.forward(300)
    for _ in range(2):
        docs.payment_reminder.delay("A1", TO)
    assert sent() == 2
    clock.forward(23 * 3600)
    docs.payment_reminder.delay("A1", TO)
    assert sent() == 2
    for _ in range(5):
        clock.forward(86400)
        docs.payment_reminder.delay("A1", TO)
    assert sent() == 3


def test_sending_once_more_by_hand(sent: Callable[[], int]) -> None:
    """One more, and the ledger knows who wanted it."""
    docs.order_confirmation.delay(1, TO)
    docs.send_once_more(1, TO, agent="bob")
    assert sent() == 2
    docs.order_confirmation.delay(1, TO)
    assert sent() == 2
    (one,) = docs.order_confirmation.entry_for(1, TO).audit
    assert (one.actor, one.reason) == ("bob", "customer has lost the mail")
