"""One connection for many messages: never shared, never trusted after a surprise, replaced only in between."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.mail import connections
from celery_idempotent.mail.connections import kept
from celery_idempotent.receivers import say_goodbye
from tests.support.mailserver import DROP, DROP_AFTER_ACCEPT, STALL, ScriptedSMTP

app = Celery("connections", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="connected", send_timeout=10.0, max_retries=0)
def send(n: int) -> str:
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    return "sent"


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger and no connection."""


def test_messages_share_a_connection(server: ScriptedSMTP) -> None:
    """With RSET in between, which also tells whether it is still alive; one EHLO for all."""
    for n in range(5):
        assert send.apply((n,)).get() == "sent"
    assert (server.connections, server.count("ehlo"), server.count("rset")) == (1, 1, 4)
    assert len(server.accepted) == 5


def test_off(server: ScriptedSMTP, settings: Any) -> None:
    """``CONNECTION_IDLE`` 0: a connection a message, each with its goodbye."""
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0}
    for n in range(3):
        assert send.apply((n,)).get() == "sent"
    assert (server.connections, server.count("quit"), server.count("rset")) == (3, 3, 0)


@pytest.mark.parametrize("what", ["idle", "old"])
def test_one_that_was_idle_or_open_for_too_long_is_replaced(
    server: ScriptedSMTP, settings: Any, monkeypatch: Any, what: str
) -> None:
    """Before the server, or a firewall in between, gives it up; and so that changes of DNS are followed."""
    assert send.apply((1,)).get() == "sent"
    if what == "idle":
        settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0.01}
    else:
        monkeypatch.setattr(connections, "LONGEST_LIFE", 0.01)
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
    monkeypatch.setattr(connections, "HEALTH_PATIENCE", 0.1)
    server.script["rset"] = STALL
    assert send.apply((1,)).get() == "sent"
    began = time.monotonic()
    assert send.apply((2,)).get() == "sent"
    assert (server.connections, time.monotonic() - began < 2) == (2, True)


def test_a_dead_peer_is_waited_for_once(server: ScriptedSMTP, monkeypatch: Any) -> None:
    """However many connections were open: the first that stays silent speaks for all."""
    rush(server, 3)
    asked = []
    healthy = connections._is_healthy

    def is_healthy(smtp: Any) -> bool:
        asked.append(smtp)
        return healthy(smtp)

    monkeypatch.setattr(connections, "_is_healthy", is_healthy)
    monkeypatch.setattr(connections, "HEALTH_PATIENCE", 0.1)
    server.script["rset"] = STALL
    assert send.apply((9,)).get() == "sent"
    assert (len(asked), server.connections) == (1, 4)
    assert [len(idle) for idle in kept._idle.values()] == [1]


def test_one_connection_that_ended_says_nothing_about_the_others(server: ScriptedSMTP) -> None:
    """A server may limit the messages of each: the next one is asked, and used."""
    rush(server, 3)
    server.script["rset"] = ["421 enough for one connection", "250 ok"]
    assert send.apply((9,)).get() == "sent"
    assert server.connections == 3


def rush(server: ScriptedSMTP, messages: int) -> None:
    """Leave as many connections open, by messages that go out at once."""
    server.hold("dot")
    threads = [threading.Thread(target=send.apply, args=((n,),)) for n in range(messages)]
    for thread in threads:
        thread.start()
    server.reached("dot", messages)
    server.release("dot")
    for thread in threads:
        thread.join(10)
    assert server.connections == messages


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


def test_a_callers_own_connection_is_the_callers(server: ScriptedSMTP) -> None:
    """``open`` opens one, the messages between use it, ``close`` closes it; what is kept stays out of it."""

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="callers")
    def callers(n: int) -> None:
        with get_connection() as connection:
            for to in ("a@example.com", "b@example.com"):
                EmailMessage("Hi", to, to=[to], connection=connection).send()

    assert send.apply((1,)).get() == "sent"
    callers.apply((1,))
    assert (server.connections, server.count("quit"), server.count("rset")) == (2, 1, 0)
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 2


def test_threads_never_share_one(server: ScriptedSMTP) -> None:
    """As many connections as messages at once, all of them used again."""
    server.hold("dot")
    threads = [threading.Thread(target=send.apply, args=((n,),)) for n in range(4)]
    for thread in threads:
        thread.start()
    server.reached("dot", 4)
    server.release("dot")
    for thread in threads:
        thread.join(10)
    assert (server.connections, len(server.accepted)) == (4, 4)
    for n in range(4, 8):
        assert send.apply((n,)).get() == "sent"
    assert server.connections == 4


def test_what_nobody_takes_any_more_is_closed(server: ScriptedSMTP, settings: Any) -> None:
    """After a rush the connections of the rush go, and the one that is in use stays."""
    server.hold("dot")
    threads = [threading.Thread(target=send.apply, args=((n,),)) for n in range(4)]
    for thread in threads:
        thread.start()
    server.reached("dot", 4)
    server.release("dot")
    for thread in threads:
        thread.join(10)
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0.2}
    end = time.monotonic() + 0.5
    for n in itertools.count(4):
        assert send.apply((n,)).get() == "sent"
        if time.monotonic() > end:
            break
    assert [len(idle) for idle in kept._idle.values()] == [1]


class Silent(DjangoSMTP):
    """A backend that fails silently, whatever it is told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fail_silently = True


def test_a_backend_that_fails_silently_does_not_hide_it(settings: Any) -> None:
    """No connection is no mail, and a retry may mend it."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.Silent"}
    settings.EMAIL_PORT = 1
    assert type(send.apply((1,)).result).__name__ == "SMTPServerDisconnected"


def test_a_child_process_does_not_use_its_parents(server: ScriptedSMTP) -> None:
    """Nor does it say a word on it: the parent goes on using it."""
    assert send.apply((1,)).get() == "sent"
    child = os.fork()
    if child == 0:
        os._exit(0 if send.apply((2,)).state == "SUCCESS" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert server.connections == 2
    assert send.apply((3,)).get() == "sent"
    assert server.connections == 2
    assert server.count("quit") == 0


def test_other_credentials_are_another_connection(server: ScriptedSMTP, settings: Any) -> None:
    """Also another option of the backend, whichever it is."""
    assert send.apply((1,)).get() == "sent"
    settings.EMAIL_HOST_USER = "somebody"
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 2


class WithState(DjangoSMTP):
    """A backend with something about it that cannot be compared."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tenant = object()


def test_a_backend_with_state_of_its_own_keeps_nothing(server: ScriptedSMTP, settings: Any) -> None:
    """Its connections might differ in ways that do not show."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.WithState"}
    for n in range(2):
        assert send.apply((n,)).get() == "sent"
    assert server.connections == 2


def test_the_worker_says_goodbye(server: ScriptedSMTP) -> None:
    """At its end, on every connection that it has kept."""
    assert send.apply((1,)).get() == "sent"
    say_goodbye()
    server.reached("quit")
    assert not any(kept._idle.values())
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 2


def test_mail_outside_of_tasks_keeps_nothing(server: ScriptedSMTP) -> None:
    """There Django's own backend does what it does."""
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    assert server.count("quit") == 1
    assert not any(kept._idle.values())


def test_a_body_of_several_messages_uses_one(server: ScriptedSMTP) -> None:
    """Each is handed over, and recorded, on its own."""

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="several-on-one")
    def several(n: int) -> None:
        for to in "abc":
            EmailMessage("Hi", "text", to=[f"{to}@example.com"]).send()

    several.apply((1,))
    assert server.connections == 1
    assert [d.status for d in several.entry_for(1).deliveries] == [DeliveryStatus.ACCEPTED] * 3
