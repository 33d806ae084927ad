"""TLS and AUTH are Django's own settings: nothing goes out in the clear, or to somebody else's server."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from celery_idempotent import Status
from celery_idempotent.mail.smtp.connections import pool
from tests.mail.conftest import certified
from tests.mail.test_conversation import confirm, entry, send
from tests.support.mailserver import DROP, STALL, ScriptedSMTP
from tests.support.servers import free_port


class Taker:
    """Takes everything that gets this far."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.taken.append((envelope.rcpt_tos, session.ssl is not None, session.authenticated))
        return "250 taken"


def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data == LoginPassword(b"shop", b"secret"), handled=False)  # it replies itself


@pytest.fixture
def taker(authority: trustme.CA, settings: Any) -> Iterator[Taker]:
    """A server that insists on TLS and on AUTH, with a certificate that this process trusts."""
    taker, port = Taker(), free_port()
    insists = {"require_starttls": True, "auth_required": True, "authenticator": check}
    controller = Controller(taker, hostname="127.0.0.1", port=port, tls_context=certified(authority), **insists)
    controller.start()
    settings.EMAIL_HOST, settings.EMAIL_PORT = "localhost", port
    yield taker
    pool.close()
    controller.stop()


def test_starttls_and_auth(taker: Taker, settings: Any) -> None:
    """One copy, encrypted, as the authenticated user."""
    settings.EMAIL_USE_TLS = True
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "shop", "secret"
    assert confirm.apply((1, ["ann@example.com"])).get() == "sent 1"
    assert taker.taken == [(["ann@example.com"], True, True)]


@pytest.mark.parametrize(
    ("host", "tls", "password"),
    [("localhost", False, "secret"), ("localhost", True, "wrong"), ("127.0.0.1", True, "secret")],
    ids=["no TLS", "a wrong password", "a certificate for another name"],
)
def test_a_refused_introduction_is_definite(
    taker: Taker, settings: Any, host: str, tls: bool, password: str
) -> None:
    """Nothing was sent, and the key is free for the next try."""
    settings.EMAIL_HOST, settings.EMAIL_USE_TLS = host, tls
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "shop", password
    assert confirm.apply((1, ["ann@example.com"])).state == "FAILURE"
    assert (entry().status, entry().attempts, taker.taken) == (Status.FAILED, 0, [])


STARTTLS = "250-test\r\n250 STARTTLS"


@pytest.mark.parametrize(
    "reply", ["454 not now", "501 no", "garbage", "220 go", "220 go\r\n250 injected", DROP, STALL]
)
def test_starttls_that_fails(settings: Any, monkeypatch: Any, reply: str) -> None:
    """Nothing goes out in the clear, and the key stays free."""
    settings.EMAIL_USE_TLS = True
    monkeypatch.setattr(confirm, "send_timeout", 0.4 if reply is STALL else 20.0)
    with ScriptedSMTP(ehlo=STARTTLS, starttls=reply) as server:
        assert send(server, settings).state == "FAILURE"
    assert not any(command.lower().startswith("mail") for command in server.commands)
    assert entry().status is Status.FAILED
    settings.EMAIL_USE_TLS = False
    monkeypatch.setattr(confirm, "send_timeout", 20.0)
    with ScriptedSMTP() as server:
        assert send(server, settings).get() == "sent 1"


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_certificate_that_does_not_match(
    settings: Any, behind_tls: Callable[..., ScriptedSMTP], wrong: str
) -> None:
    """With implicit TLS as with STARTTLS: not one command."""
    other = {"name": "mail.example.org"} if wrong == "name" else {"issuer": trustme.CA()}
    with behind_tls(ScriptedSMTP(), **other) as server:
        assert isinstance(send(server, settings).result, ssl.SSLCertVerificationError)
    assert (server.commands, server.accepted) == ([], [])
    assert entry().status is Status.FAILED


def test_a_certificate_that_matches(settings: Any, behind_tls: Callable[..., ScriptedSMTP]) -> None:
    """The same way, with what it should be."""
    with behind_tls(ScriptedSMTP()) as server:
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1
