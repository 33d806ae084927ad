"""What is on record when something comes between the write-ahead, the payload, its reply and the goodbye."""

from __future__ import annotations

import smtplib
import threading
import time
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from celery_idempotent import LedgerUnavailable, Status
from celery_idempotent.ledger.held_claim import HeldClaim
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.smtp.transaction import Transaction
from tests.mail.bodies import message, run, task
from tests.support.mailserver import ScriptedSMTP


def test_a_soft_time_limit_between_write_ahead_and_payload(settings: Any, monkeypatch: Any) -> None:
    """P2: nothing went out and the record says so; the next run sends it."""
    real, struck = Transaction.send_payload, []

    def strike(self: Transaction, *args: Any) -> Any:
        if struck:
            return real(self, *args)
        struck.append(True)
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(Transaction, "send_payload", strike)

    @task("soft")
    def soft(n: int) -> None:
        message().send()

    with ScriptedSMTP() as server:
        assert run(server, settings, soft).state == "FAILURE"
        entry = soft.entry_for(1)
        assert (entry.status, entry.deliveries[0].status) == (Status.FAILED, DeliveryStatus.DEFERRED)
        assert run(server, settings, soft).state == "SUCCESS"
    assert len(server.accepted) == 1


def test_a_soft_time_limit_while_the_reply_is_awaited(settings: Any, monkeypatch: Any) -> None:
    """P1: the dot is out, so it is in doubt and stays so."""
    reply = smtplib.SMTP.getreply

    def struck(self: smtplib.SMTP) -> Any:
        code, text = reply(self)
        if text.startswith(b"queued"):
            raise SoftTimeLimitExceeded
        return code, text

    monkeypatch.setattr(smtplib.SMTP, "getreply", struck)

    @task("soft-reply")
    def soft(n: int) -> None:
        message().send()

    with ScriptedSMTP() as server:
        assert run(server, settings, soft).state == "FAILURE"
        assert soft.entry_for(1).status is Status.IN_DOUBT
        assert run(server, settings, soft).state == "FAILURE"
    assert len(server.accepted) == 1


def test_the_outcome_is_recorded_before_the_goodbye(settings: Any) -> None:
    """P5: a slow QUIT does not widen the moment of doubt."""
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0}

    @task("quit")
    def leave(n: int) -> None:
        message().send()

    with ScriptedSMTP() as server:
        server.hold("quit")
        thread = threading.Thread(target=run, args=(server, settings, leave))
        thread.start()
        server.reached("quit")
        entry = leave.entry_for(1)
        server.release("quit")
        thread.join(20)
    assert (entry.status, entry.deliveries[0].status) == (Status.CLAIMED, DeliveryStatus.ACCEPTED)


@pytest.mark.parametrize("swallow", [False, True])
def test_the_deadline_counts_from_before_the_write_ahead(
    memory_ledger: Any, settings: Any, monkeypatch: Any, swallow: bool
) -> None:
    """The store's deadline starts in the write: a slow ledger does not answer, and the task comes back.

    A body that swallows the error does not end as sent.
    """
    begin = HeldClaim.begin

    def slow(*args: Any) -> Any:
        entry = begin(*args)
        time.sleep(0.6)
        return entry

    @task(f"slow-write-ahead-{swallow}", send_timeout=0.5)
    def late(n: int) -> None:
        try:
            message().send()
        except Exception:
            if not swallow:
                raise

    with ScriptedSMTP() as server:
        with monkeypatch.context() as slowed:
            slowed.setattr(HeldClaim, "begin", slow)
            assert isinstance(run(server, settings, late).result, LedgerUnavailable), "a worker would come back"
        assert not server.accepted
        assert late.entry_for(1).deliveries[0].status is DeliveryStatus.DEFERRED
    assert late.entry_for(1).status is Status.CLAIMED
