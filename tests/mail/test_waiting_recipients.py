"""Recipients of a split list whose turn has not come: the end of a doubt is not the end for them."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.execution.run import Run
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.held_claim import HeldClaim
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.policy import Verdict
from celery_idempotent.ledger.status import DeliveryStatus
from tests.support.mailserver import DROP_AFTER_ACCEPT, ScriptedSMTP

app = Celery("waiting_recipients", broker="memory://", backend="cache+memory://", set_as_current=False)
PEOPLE = [f"r{n}@example.com" for n in range(5)]
OF_TWO = {"ehlo": "250-test\r\n250 LIMITS RCPTMAX=2"}


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="waiting_recipients", max_retries=0)
def send(n: int) -> str:
    EmailMessage("Hi", "text", to=PEOPLE).send()
    return "sent"


def statuses() -> list[DeliveryStatus]:
    return [delivery.status for delivery in send.entry_for(1).deliveries]


def resolved(store: Any) -> Any:
    return Operator(Ledger(store), "me", "it is in the server's log").resolve(send.entry_for(1), Verdict.SENT)


def assert_another_task_serves_the_others(settings: Any, served: ScriptedSMTP) -> None:
    with ScriptedSMTP(**OF_TWO) as server:
        settings.EMAIL_PORT = server.port
        assert send.apply((1,)).get() == "sent"
    got = Counter(a for received in served.accepted + server.accepted for a in received.recipients)
    assert got == Counter(PEOPLE), "P1 and P2: everybody, once"
    assert send.entry_for(1).status is Status.SENT


@pytest.mark.usefixtures("tracked")
@pytest.mark.parametrize("dot", [[DROP_AFTER_ACCEPT], ["250 ok", DROP_AFTER_ACCEPT]], ids=["first", "second"])
def test_a_doubt_about_a_part_that_turns_out_as_sent(settings: Any, memory_ledger: Any, dot: Any) -> None:
    """P2: those of the later parts are owed the mail, so it is released for the next call and not sent."""
    with ScriptedSMTP(dot=dot, **OF_TWO) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(send.apply((1,)).result, DeliveryInDoubt)
    assert resolved(memory_ledger.store).status is Status.RELEASED
    assert_another_task_serves_the_others(settings, server)


@pytest.mark.usefixtures("tracked")
def test_a_process_that_dies_in_a_part(settings: Any, memory_ledger: Any, monkeypatch: Any) -> None:
    """P2: whoever was to come later is on record before the first payload goes out."""

    def dies(self: Run, *_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, ScriptedSMTP(**OF_TWO) as server:
        patch.setattr(Run, "settle", dies)
        patch.setattr(send, "send_timeout", 1.0)
        settings.EMAIL_PORT = server.port
        with pytest.raises(SystemExit):
            send.apply((1,), throw=True)
    time.sleep(1.0)
    assert statuses().count(DeliveryStatus.DEFERRED) == 3
    assert resolved(memory_ledger.store).status is Status.RELEASED
    assert_another_task_serves_the_others(settings, server)


@pytest.mark.usefixtures("tracked", "memory_ledger")
def test_a_list_in_one_part_is_written_once(settings: Any, monkeypatch: Any) -> None:
    """Nobody waits, so there is nothing to write beside the write-ahead."""
    written: list[Any] = []
    begin = HeldClaim.begin
    monkeypatch.setattr(HeldClaim, "begin", lambda self, *a: written.append(a[-1]) or begin(self, *a))
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert send.apply((1,)).get() == "sent"
    assert written == [[]]
