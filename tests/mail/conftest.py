"""What the tests of mail share."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.mailserver import ScriptedSMTP


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger and no connection."""


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A private certificate authority, which this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def certified(issuer: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    """Return what a server identifies itself with as ``name``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def behind_tls(authority: trustme.CA, settings: Any) -> Callable[..., ScriptedSMTP]:
    """Put a server behind TLS from the first octet, and have mail sent to it in that way."""

    def behind_tls(
        server: ScriptedSMTP, issuer: trustme.CA = authority, name: str = "localhost"
    ) -> ScriptedSMTP:
        server._socket = certified(issuer, name).wrap_socket(server._socket, server_side=True)
        settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_USE_SSL = "localhost", server.port, True
        return server

    return behind_tls
