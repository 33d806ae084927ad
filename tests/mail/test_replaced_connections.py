"""A kept connection is never trusted after a surprise, and replaced only between hand-overs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from celery_idempotent.mail.smtp.connections import pool
from tests.mail.connecting import send
from tests.support.mailserver import DROP, DROP_AFTER_ACCEPT, STALL, ScriptedSMTP


@pytest.mark.parametrize("what", ["idle", "old"])
def test_one_that_was_idle_or_open_for_too_long_is_replaced(
    server: ScriptedSMTP, settings: Any, monkeypatch: Any, what: str
) -> None:
    """Before the server, or a firewall in between, gives it up; and so that changes of DNS are followed."""
    assert send.apply((1,)).get() == "sent"
    if what == "idle":
        settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0.01}
    else:
        monkeypatch.setattr(pool, "longest_life", 0.01)
    time.sleep(0.02)
    assert send.apply((2,)).get() == "sent"
    assert (server.connections, server.count("rset")) == (2, 0)


UNFIT = [{"rset": reply} for reply in ("421 idle too long", "500 what", "garbage", "250 a\r\n421 b", DROP)]


@pytest.mark.parametrize("server", UNFIT, indirect=True, ids=lambda script: script["rset"][:6])
def test_one_that_is_not_fit_any_more_is_replaced_before_the_hand_over(server: ScriptedSMTP) -> None:
    """The task does not notice."""
    for n in range(3):
        assert send.apply((n,)).get() == "sent"
    assert len(server.accepted) == 3
    assert server.connections >= 2
    assert [send.entry_for(n).attempts for n in range(3)] == [1, 1, 1]


def test_one_that_does_not_answer_is_replaced(server: ScriptedSMTP, monkeypatch: Any) -> None:
    """A dead peer costs some seconds, not the hand-over."""
    monkeypatch.setattr(pool, "health_patience", 0.1)
    server.script["rset"] = STALL
    assert send.apply((1,)).get() == "sent"
    began = time.monotonic()
    assert send.apply((2,)).get() == "sent"
    assert time.monotonic() - began < send.send_timeout / 2
    assert server.connections == 2


@pytest.mark.parametrize("reply", ["421 enough for one connection", DROP])
def test_one_that_ends_at_mail_is_replaced(server: ScriptedSMTP, reply: str) -> None:
    """Servers that limit the messages of a connection say so there; nothing has begun yet."""
    server.script["mail"] = ["250 ok", reply, "250 ok"]
    assert send.apply((1,)).get() == "sent"
    assert send.apply((2,)).get() == "sent"
    assert (server.connections, len(server.accepted)) == (2, 2)
    assert send.entry_for(2).attempts == 1


def test_a_new_one_that_ends_at_mail_is_no_reason_for_another(server: ScriptedSMTP) -> None:
    """The server does not want us now: that is the task's retry."""
    server.script["mail"] = "421 go away"
    assert type(send.apply((1,)).result).__name__ == "RecipientsDeferred"
    assert server.connections == 1


@pytest.mark.parametrize("step", ["rcpt", "data", "dot"])
def test_never_replaced_inside_the_hand_over(server: ScriptedSMTP, step: str) -> None:
    """Once a recipient was named, the end of the connection ends the try."""
    assert send.apply((1,)).get() == "sent"
    server.script[step] = DROP
    assert send.apply((2,)).state == "FAILURE"
    assert server.connections == 1


@pytest.mark.parametrize("dot", [DROP_AFTER_ACCEPT, "garbage", "220 odd", "421 closing", "250 a\r\n250 b"])
def test_not_kept_after_a_surprise(server: ScriptedSMTP, dot: str) -> None:
    """After a doubt, a 421 or a word out of turn the next message has a connection of its own."""
    server.script["dot"] = [dot, "250 ok"]
    send.apply((1,))
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 2


@pytest.mark.parametrize("script", [{"dot": "554 spam"}, {"rcpt": "550 no"}, {"data": "451 later"}])
def test_kept_after_a_plain_no(server: ScriptedSMTP, script: dict[str, str]) -> None:
    """A refusal that leaves the server in order leaves the connection in use."""
    for step, answer in script.items():
        server.script[step] = [answer, "354 go" if step == "data" else "250 ok"]
    assert send.apply((1,)).state == "FAILURE"
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 1
