"""Canaries: each private part that `celery_idempotent.contrib.anymail.compat` reads is still there."""

from __future__ import annotations

from typing import Any

import pytest
from anymail.backends.base import AnymailBaseBackend
from anymail.backends.mailgun import EmailBackend as Mailgun
from django.core.mail import EmailMessage, get_connection
from urllib3 import PoolManager, ProxyManager

from celery_idempotent.contrib.anymail.compat import prepare_pool_managers, sends_as_anymail
from tests.anymail.conftest import Use

NOBODY = "http://127.0.0.1:9"


def opened(name: str, use: Use) -> Any:
    """Return Anymail's own backend, open."""
    use(name, f"{NOBODY}/")
    backend = get_connection(f"anymail.backends.{name}.EmailBackend")
    backend.open()
    return backend


def test_requests_has_pool_managers(use: Use) -> None:
    """``HTTPAdapter.poolmanager`` and ``proxy_manager_for``: each manager is prepared, and each once."""
    prepared: list[PoolManager] = []
    backend = opened("mailgun", use)
    for _ in range(2):  # a backend that stays open is prepared before each request
        prepare_pool_managers(backend, prepared.append)
    adapter = backend.session.get_adapter(NOBODY)
    assert adapter.poolmanager in prepared
    assert len(prepared) == len(backend.session.adapters)
    proxies = adapter.proxy_manager_for(NOBODY)
    assert isinstance(proxies, ProxyManager)
    assert prepared[-1] is proxies


def test_botocore_has_pool_managers(use: Use) -> None:
    """``_endpoint.http_session._manager``, and ``_pool_classes_by_scheme`` for its managers of proxies."""
    own: dict[str, Any] = {}

    def prepare(manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = own

    backend = opened("amazon_ses", use)
    prepare_pool_managers(backend, prepare)
    http = backend.client._endpoint.http_session
    assert http._manager.pool_classes_by_scheme is own
    assert http._get_proxy_manager(NOBODY).pool_classes_by_scheme is own


@pytest.mark.parametrize("step", ["send_messages", "_send"])
def test_anymail_sends_in_two_steps(step: str, use: Use) -> None:
    """``send_messages`` calls ``_send``: a project's own version of either is another way of sending."""
    own = type("Own", (Mailgun,), {step: lambda self, messages: ["own", messages]})
    assert sends_as_anymail(Mailgun)
    assert not sends_as_anymail(own)
    use("mailgun", f"{NOBODY}/")
    sent: list[EmailMessage] = []
    counting = type("Counting", (Mailgun,), {"_send": lambda self, message: sent.append(message) or True})
    message = EmailMessage("Hi", "text", to=["ann@example.com"])
    assert AnymailBaseBackend.send_messages(counting(), [message]) == 1
    assert sent == [message]
