"""TLS and AUTH are Django's own settings, against a server that insists on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from celery_idempotent import Status
from celery_idempotent.mail.connections import kept
from tests.mail.test_conversation import confirm
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
def taker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, memory_ledger: Any, tracked: None
) -> Iterator[Taker]:
    """A server with a certificate of a private authority, which this process trusts."""
    import ssl

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    taker, port = Taker(), free_port()
    options = {"tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": check}
    controller = Controller(taker, hostname="127.0.0.1", port=port, **options)
    controller.start()
    settings.EMAIL_HOST, settings.EMAIL_PORT = "localhost", port
    yield taker
    kept.close()
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
    entry = confirm.entry_for(1, [])
    assert (entry.status, entry.attempts, taker.taken) == (Status.FAILED, 0, [])
