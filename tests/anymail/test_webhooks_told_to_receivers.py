"""What a webhook brings about is told as what the sweep or an operator does: once, and not in a run's place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, Status, signals
from tests.anymail import webhooks
from tests.anymail.conftest import Use
from tests.anymail.receipts import ANN, BOB, entry, metadata, receipt, send
from tests.anymail.webhooks import WEBHOOKS
from tests.support.providers import API

NAMES = ("email_claimed", "email_sent", "email_failed", "email_released", "email_in_doubt")
Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def heard() -> Iterator[Told]:
    """The signals, by name, with what they said."""
    seen: Told = []
    listeners = {name: lambda name=name, **said: seen.append((name, said)) for name in NAMES}
    for name, listener in listeners.items():
        getattr(signals, name).connect(listener)
    yield seen
    for name, listener in listeners.items():
        getattr(signals, name).disconnect(listener)


@pytest.fixture(autouse=True)
def known(monkeypatch: Any) -> list[Any]:
    """The tasks that the process with the webhooks knows."""
    known = [receipt]
    monkeypatch.setattr("celery_idempotent.tasks.registry.tasks", lambda app: known)
    return known


def names(heard: Told) -> list[str]:
    return [name for name, _ in heard]


@pytest.mark.parametrize("name", WEBHOOKS)
def test_the_end_of_a_doubt_is_told_once(name: str, doubtful: Any, told: Any, heard: Told, caplog: Any) -> None:
    """By signal and log line, of the task that sent it; what comes again or later is no news."""
    mark = doubtful(name)
    heard.clear()
    caplog.set_level(logging.INFO, "celery_idempotent")
    caplog.clear()
    for kind in ("delivered", "delivered", "bounced"):
        assert told(WEBHOOKS[name](kind, ANN, mark)) == 200
    assert names(heard) == ["email_sent"]
    said = heard[0][1]
    assert (said["sender"], said["entry"].status, said["entry"].key) == (receipt, Status.SENT, entry().key)
    assert said["task_id"] == entry().owner
    assert [r.getMessage() for r in caplog.records if r.getMessage().startswith("receipt: sent (order=1) key=")]


def test_a_refusal_is_told_as_a_failure(doubtful: Any, told: Any, heard: Told, known: list[Any]) -> None:
    """Also by a process that does not know the task: without a sender."""
    known.clear()
    mark = doubtful("mailgun")
    heard.clear()
    for _ in range(2):
        assert told(webhooks.mailgun("rejected", ANN, mark)) == 200
    ((name, said),) = heard
    assert (name, said["sender"], said["entry"].status) == ("email_failed", None, Status.FAILED)
    assert isinstance(said["exception"], DeliveryInDoubt)
    assert str(said["exception"]) == "Mailgun tells: rejected"


def test_as_long_as_the_doubt_stands_nothing_is_told(doubtful: Any, told: Any, heard: Told) -> None:
    """Of a batch each is proven alone: Ann's mail is no end of Bob's doubt."""
    mark = doubtful("mailgun", ANN, BOB, merge_data={})
    heard.clear()
    assert told(webhooks.mailgun("delivered", ANN, mark)) == 200
    assert heard == []
    assert told(webhooks.mailgun("delivered", BOB, mark)) == 200
    assert names(heard) == ["email_sent"]


class Telling(API):
    """Does something, and posts a webhook about Ann, while the request is still open."""

    def __init__(self, told: Any, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.told = told
        self.before = before

    def take(self, sent: Any) -> Any:
        answer = super().take(sent)
        self.before()
        assert self.told(webhooks.mailgun("delivered", ANN, metadata(self, "mailgun"))) == 200
        return answer


def test_a_run_that_is_at_work_tells_its_own_end(use: Use, told: Any, heard: Told) -> None:
    """An event that is faster than the reply is no end of anything."""
    with Telling(told) as api:
        use("mailgun", api)
        assert send().get() == "sent"
    assert names(heard) == ["email_claimed", "email_sent"]
    assert entry().deliveries[0].events


def test_a_passed_deadline_that_an_event_finds_is_told(
    use: Use, told: Any, heard: Told, clock: Callable[[float], None]
) -> None:
    """No sweep would find it any more. A reply that comes all the same still counts."""
    with Telling(told, lambda: clock(3600)) as api:
        use("mailgun", api)
        assert send(ANN, BOB, merge_data={}).get() == "sent"
    assert names(heard) == ["email_claimed", "email_in_doubt", "email_sent"]
    assert str(heard[1][1]["exception"]) == "Mailgun tells: delivered"
