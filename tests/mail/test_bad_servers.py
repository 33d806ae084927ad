"""Servers that stall, babble or do not read: nothing lost, no worker held."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.mail.smtp.reply_reader import ReplyReader
from tests.support.mailserver import STALL, TRICKLE, ScriptedSMTP

app = Celery("bad-servers", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="to-bad-servers", send_timeout=20, max_retries=0)
def send(n: int, body: str = "text") -> str:
    EmailMessage("Hi", body, to=["ann@example.com"]).send()
    return "sent"


NOT_HELD = 10.0
"""Seconds: far more than a ``send_timeout`` of these tests, for a slow machine, and far less than for ever."""


def run(server: ScriptedSMTP, settings: Any, **kwargs: Any) -> Any:
    settings.EMAIL_PORT = server.port
    return send.apply((1,), kwargs)


@pytest.mark.parametrize("timeout", [None, 0.5, 100])
@pytest.mark.parametrize("how", [STALL, TRICKLE])
@pytest.mark.parametrize("step", ["banner", "ehlo", "mail", "rcpt", "data", "dot"])
def test_no_server_holds_a_worker(
    settings: Any, monkeypatch: Any, step: str, how: str, timeout: float | None
) -> None:
    """Neither by silence nor by a byte now and then, with any EMAIL_TIMEOUT: a reply has ``send_timeout``."""
    limit = 1.0 if step == "dot" else 0.4  # a slow machine has to get as far as the dot
    monkeypatch.setattr(send, "send_timeout", limit)
    settings.EMAIL_TIMEOUT = timeout and timeout * limit
    with ScriptedSMTP(**{step: how}) as server:
        began = time.monotonic()
        assert run(server, settings).state == "FAILURE"
        assert time.monotonic() - began < NOT_HELD
    assert send.entry_for(1).status is (Status.IN_DOUBT if step == "dot" else Status.FAILED)


def test_a_callers_own_connection_has_a_deadline_too(settings: Any) -> None:
    """EMAIL_TIMEOUT None, and a connection that the body opens itself."""
    settings.EMAIL_TIMEOUT = None

    @app.task(
        base=IdempotentEmailTask, key_fields=("n",), name="own-connection", send_timeout=0.3, max_retries=0
    )
    def own(n: int) -> None:
        with get_connection() as connection:
            EmailMessage("Hi", "text", to=["ann@example.com"], connection=connection).send()

    for step in ("banner", "mail", "dot"):
        with ScriptedSMTP(**{step: TRICKLE}) as server:
            settings.EMAIL_PORT = server.port
            began = time.monotonic()
            assert own.apply((len(step),)).state == "FAILURE"
            assert time.monotonic() - began < NOT_HELD


def test_the_reply_to_the_payload_may_take_longer_than_the_others(settings: Any) -> None:
    """Content filters work before it (RFC 5321 §4.5.3.2.6): it has the send deadline, not EMAIL_TIMEOUT."""
    settings.EMAIL_TIMEOUT = 1.0
    with ScriptedSMTP(dot=lambda _: time.sleep(1.5) or "250 ok") as server:
        assert run(server, settings).get() == "sent"


class Sluggish(ScriptedSMTP):
    """Reads the payload slowly, but steadily, and has all the time in the world."""

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Event()
        self.octets = 0
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # or the kernel reads for it

    def _take(self, connection: socket.socket, *_: Any) -> bool:
        while not self.done.wait(0.05):
            self.octets += len(connection.recv(50_000))
        return False


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_does_not_read_the_payload(
    settings: Any, monkeypatch: Any, behind_tls: Any, tls: bool
) -> None:
    """The payload has the same deadline as the rest of the hand-over; without its dot nothing was sent."""
    monkeypatch.setattr(send, "send_timeout", 1.0)
    with behind_tls(Sluggish()) if tls else Sluggish() as server:
        result = run(server, settings, body=("x" * 70 + "\n") * 120_000)
        octets = server.octets
        server.done.set()
    assert result.state == "FAILURE"
    assert octets < 4_000_000, "it waited until the rest was in the sockets' buffers"
    assert server.commands[-1].lower() == "data"
    assert send.entry_for(1).deliveries[0].status.value == "deferred"


def test_an_endless_reply_is_cut(settings: Any, monkeypatch: Any) -> None:
    """A reply has a size as well as a time."""
    monkeypatch.setattr(ReplyReader, "longest_reply", 10_000)
    endless = "".join(f"250-{n}\r\n" for n in range(5000)) + "250 done"
    with ScriptedSMTP(rcpt=endless) as server:
        assert run(server, settings).state == "FAILURE"
    with ScriptedSMTP(dot=endless) as server:
        assert isinstance(run(server, settings).result, DeliveryInDoubt)


def test_100_kilobytes_in_many_lines_are_a_reply(settings: Any) -> None:
    """The code counts; of the text no more is kept than a store has room for."""
    with ScriptedSMTP(dot="".join(f"250-{'y' * 90}\r\n" for _ in range(1100)) + "250 ok") as server:
        assert run(server, settings).get() == "sent"
    assert len(send.entry_for(1).deliveries[0].detail) <= 200


class LineFeeds(ScriptedSMTP):
    """Goes on after an answer that brings its own line end."""

    def _say(self, connection: socket.socket, answer: str) -> bool:
        return super()._say(connection, answer) or answer.endswith("\n\0")


def test_bare_line_feeds_are_line_ends(settings: Any) -> None:
    """What many a small server sends, and every client takes."""
    script = {"ehlo": "250-test\n250 SIZE 0\n\0", "mail": "250 ok\n\0", "dot": "250-a\n250 b\n\0"}
    with LineFeeds(**script) as server:
        assert run(server, settings).get() == "sent"
