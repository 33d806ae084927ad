"""Servers that answer, or hang up, before they can have the mail: that is no acceptance, and no doubt."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.ledger.held_claim import HeldClaim
from tests.support.mailserver import ScriptedSMTP

app = Celery("early-replies", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="to-early-servers", send_timeout=20, max_retries=0)
def send(n: int) -> str:
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    return "sent"


@pytest.mark.parametrize("early", ["354 go\r\n250 queued", "354 go\r\n554 no"])
def test_a_server_that_answers_before_it_is_asked(settings: Any, early: str) -> None:
    """Its reply to the payload would be one to something else: the payload's dot is not sent."""
    with ScriptedSMTP(data=[early, "354 go"]) as server:
        settings.EMAIL_PORT = server.port
        assert send.apply((1,)).state == "FAILURE"
        assert send.entry_for(1).deliveries[0].status.value == "deferred"
        assert send.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1


class Early(ScriptedSMTP):
    """Says ``early`` in a packet of its own once it has asked for the payload; "" is the end of its talking."""

    def __init__(self, early: str, **script: Any) -> None:
        super().__init__(**script)
        self.early = early
        self.has_spoken = threading.Event()

    def _take(self, connection: socket.socket, *rest: Any) -> bool:
        if self.has_spoken.is_set():
            return super()._take(connection, *rest)
        if self.early:
            connection.sendall(self.early.encode() + b"\r\n")
        else:
            connection.shutdown(socket.SHUT_WR)
        self.has_spoken.set()
        return super()._take(connection, *rest)


def heard_early(monkeypatch: Any, server: Early) -> None:
    """Let the write-ahead take until the server has spoken, so that it has been before the payload."""
    begin = HeldClaim.begin

    def late(*args: Any) -> Any:
        assert server.has_spoken.wait(20)
        return begin(*args)

    monkeypatch.setattr(HeldClaim, "begin", late)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("early", ["250 queued", "250 queued\r\n250 queued", "354 go on", "421 closing", "2"])
def test_a_server_that_answers_before_the_final_dot(
    settings: Any, behind_tls: Any, memory_ledger: Any, monkeypatch: Any, early: str, tls: bool
) -> None:
    """P2: what it says before it can have the mail is no acceptance: not sent, and the next run sends it."""
    heard_early(monkeypatch, server := Early(early))
    with behind_tls(server) if tls else server:
        settings.EMAIL_PORT = server.port
        result = send.apply((1,))
        assert type(result.result).__name__ == "RecipientsDeferred"
        assert server.accepted == []
        assert send.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1


def test_a_server_that_hangs_up_before_the_final_dot(
    settings: Any, memory_ledger: Any, monkeypatch: Any
) -> None:
    """It could not say yes any more: the dot is not sent, so there is no doubt."""
    heard_early(monkeypatch, server := Early(""))
    with server:
        settings.EMAIL_PORT = server.port
        assert type(send.apply((1,)).result).__name__ == "RecipientsDeferred"
        assert send.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1
