"""Servers that stall, babble, hang up or are not who they say: nothing lost, nobody let in, no worker held."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from celery import Celery
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.mail import lines
from tests.support.mailserver import DROP, STALL, TRICKLE, ScriptedSMTP

app = Celery("bad-servers", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="to-bad-servers", send_timeout=0.4, max_retries=0)
def send(n: int, body: str = "text") -> str:
    EmailMessage("Hi", body, to=["ann@example.com"]).send()
    return "sent"


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger."""


def run(server: ScriptedSMTP, settings: Any, **kwargs: Any) -> Any:
    settings.EMAIL_PORT = server.port
    return send.apply((1,), kwargs)


@pytest.mark.parametrize("timeout", [None, 0.2, 60])
@pytest.mark.parametrize("how", [STALL, TRICKLE])
@pytest.mark.parametrize("step", ["banner", "ehlo", "mail", "rcpt", "data", "dot"])
def test_no_server_holds_a_worker(settings: Any, step: str, how: str, timeout: float | None) -> None:
    """Neither by silence nor by a byte now and then, with any EMAIL_TIMEOUT: a reply has ``send_timeout``."""
    settings.EMAIL_TIMEOUT = timeout
    with ScriptedSMTP(**{step: how}) as server:
        began = time.monotonic()
        assert run(server, settings).state == "FAILURE"
        assert time.monotonic() - began < 2.0
    assert send.entry_for(1).status is (Status.IN_DOUBT if step == "dot" else Status.FAILED)


def test_the_reply_to_the_payload_may_take_longer_than_the_others(settings: Any) -> None:
    """Content filters work before it (RFC 5321 §4.5.3.2.6): it has the send deadline, not EMAIL_TIMEOUT."""
    settings.EMAIL_TIMEOUT = 0.1
    with ScriptedSMTP(dot=lambda _: time.sleep(0.25) or "250 ok") as server:
        assert run(server, settings).get() == "sent"


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_does_not_read_the_payload(settings: Any, authority: Any, tls: bool) -> None:
    """The payload has the same deadline as the rest of the hand-over; without its dot nothing was sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings.EMAIL_HOST, settings.EMAIL_PORT = "localhost", listener.getsockname()[1]
    settings.EMAIL_USE_SSL = tls
    done = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(context)
            connection = context.wrap_socket(connection, server_side=True)
        for reply in (b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go"):
            connection.sendall(reply + b"\r\n")
            if reply != b"354 go":
                connection.recv(1000)
        while not done.wait(0.01):
            connection.recv(50_000)  # slowly, but steadily
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    began = time.monotonic()
    result = send.apply((1,), {"body": ("x" * 70 + "\n") * 300_000})
    took = time.monotonic() - began
    done.set()
    thread.join(10)
    listener.close()
    assert result.state == "FAILURE"
    assert took < 6.0
    assert send.entry_for(1).deliveries[0].status.value == "deferred"


def test_an_endless_reply_is_cut(settings: Any, monkeypatch: Any) -> None:
    """A reply has a size as well as a time."""
    monkeypatch.setattr(lines, "LONGEST_REPLY", 10_000)
    send.send_timeout = 30
    endless = "".join(f"250-{n}\r\n" for n in range(5000)) + "250 done"
    with ScriptedSMTP(rcpt=endless) as server:
        assert run(server, settings).state == "FAILURE"
    with ScriptedSMTP(dot=endless) as server:
        assert isinstance(run(server, settings).result, DeliveryInDoubt)
    send.send_timeout = 0.4


def test_100_kilobytes_in_many_lines_are_a_reply(settings: Any) -> None:
    """The code counts; of the text no more is kept than a store has room for."""
    with ScriptedSMTP(dot="".join(f"250-{'y' * 90}\r\n" for _ in range(1100)) + "250 ok") as server:
        assert run(server, settings).get() == "sent"
    assert len(send.entry_for(1).deliveries[0].detail) <= 200


@pytest.mark.parametrize("early", ["354 go\r\n250 queued", "354 go\r\n554 no"])
def test_a_server_that_answers_before_it_is_asked(settings: Any, early: str) -> None:
    """Its reply to the payload would be one to something else: the payload's dot is not sent."""
    with ScriptedSMTP(data=[early, "354 go"]) as server:
        assert run(server, settings).state == "FAILURE"
        assert send.entry_for(1).deliveries[0].status.value == "deferred"
        assert run(server, settings).get() == "sent"
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


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("early", ["250 queued", "250 queued\r\n250 queued", "354 go on", "421 closing", "2"])
def test_a_server_that_answers_before_the_final_dot(
    settings: Any, authority: Any, memory_ledger: Any, monkeypatch: Any, early: str, tls: bool
) -> None:
    """P2: what it says before it can have the mail is no acceptance: not sent, and the next run sends it."""
    heard_early(monkeypatch, memory_ledger, server := Early(early))
    with behind_tls(server, authority, "localhost", settings) if tls else server:
        settings.EMAIL_PORT = server.port
        result = patient_send.apply((1,))
        assert type(result.result).__name__ == "RecipientsDeferred"
        assert server.accepted == []
        assert patient_send.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1


def test_a_server_that_hangs_up_before_the_final_dot(
    settings: Any, memory_ledger: Any, monkeypatch: Any
) -> None:
    """It could not say yes any more: the dot is not sent, so there is no doubt."""
    heard_early(monkeypatch, memory_ledger, server := Early(""))
    with server:
        settings.EMAIL_PORT = server.port
        assert type(patient_send.apply((1,)).result).__name__ == "RecipientsDeferred"
        assert patient_send.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="to-early-servers", send_timeout=20, max_retries=0)
def patient_send(n: int) -> str:
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    return "sent"


def heard_early(monkeypatch: Any, ledger: Any, server: Early) -> None:
    """Let the write-ahead take until the server has spoken, so that it has been before the payload."""
    begin = ledger.begin

    def late(*args: Any) -> Any:
        assert server.has_spoken.wait(20)
        return begin(*args)

    monkeypatch.setattr(ledger, "begin", late)


def test_bare_line_feeds_are_line_ends(settings: Any) -> None:
    """What many a small server sends, and every client takes."""
    script = {"ehlo": "250-test\n250 SIZE 0\n\0", "mail": "250 ok\n\0", "dot": "250-a\n250 b\n\0"}
    with LineFeeds(**script) as server:
        assert run(server, settings).get() == "sent"


class LineFeeds(ScriptedSMTP):
    """Goes on after an answer that brings its own line end."""

    def _say(self, connection: socket.socket, answer: str) -> bool:
        return super()._say(connection, answer) or answer.endswith("\n\0")


STARTTLS = "250-test\r\n250 STARTTLS"


@pytest.mark.parametrize(
    "reply", ["454 not now", "501 no", "garbage", "220 go", "220 go\r\n250 injected", DROP, STALL]
)
def test_starttls_that_fails(settings: Any, reply: str) -> None:
    """Nothing goes out in the clear, and the key stays free."""
    settings.EMAIL_USE_TLS = True
    with ScriptedSMTP(ehlo=STARTTLS, starttls=reply) as server:
        assert run(server, settings).state == "FAILURE"
    assert not any(command.lower().startswith("mail") for command in server.commands)
    assert send.entry_for(1).status is Status.FAILED
    settings.EMAIL_USE_TLS = False
    with ScriptedSMTP() as server:
        assert run(server, settings).get() == "sent"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A private certificate authority, which this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def behind_tls(server: ScriptedSMTP, issuer: trustme.CA, name: str, settings: Any) -> ScriptedSMTP:
    """Put ``server`` behind TLS from the first octet, with a certificate for ``name``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(name).configure_cert(context)
    server._socket = context.wrap_socket(server._socket, server_side=True)
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_USE_SSL = "localhost", server.port, True
    return server


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_certificate_that_does_not_match(settings: Any, authority: Any, wrong: str) -> None:
    """With implicit TLS as with STARTTLS (`test_security`): not one command."""
    issuer = authority if wrong == "name" else trustme.CA()
    name = "mail.example.org" if wrong == "name" else "localhost"
    with behind_tls(ScriptedSMTP(), issuer, name, settings) as server:
        assert isinstance(send.apply((1,)).result, ssl.SSLCertVerificationError)
    assert (server.commands, server.accepted) == ([], [])
    assert send.entry_for(1).status is Status.FAILED


def test_a_certificate_that_matches(settings: Any, authority: Any) -> None:
    """The same way, with what it should be."""
    with behind_tls(ScriptedSMTP(), authority, "localhost", settings) as server:
        assert send.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1


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
            assert time.monotonic() - began < 2.0
