"""Providers that are slow without end: no request outlives the send deadline, and none begins after it."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.exceptions import RecipientsDeferred
from celery_idempotent.ledger.status import DeliveryStatus
from tests.anymail.slow_api import HEAD, MEASURED, UNMEASURED, SlowAPI
from tests.support.providers import API

app = Celery("deadline", broker="memory://", backend="cache+memory://", set_as_current=False)
TIMEOUT = 0.5
Use = Callable[..., None]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="slow", send_timeout=TIMEOUT)
def slow(order: int, body: str = "text", own: bool = False) -> str:
    with get_connection() as connection:
        message = EmailMessage("Hi", body, to=["ann@example.com"], connection=connection if own else None)
        message.send()
    return "sent"


def assert_cut_at_the_deadline(api: SlowAPI, requests: int, timeout: float = TIMEOUT, **kwargs: Any) -> None:
    """Assert that the task ends with the deadline and not before, in doubt, and that the provider sees it."""
    began = time.monotonic()
    result = slow.apply((1,), kwargs)
    took = time.monotonic() - began
    assert isinstance(result.result, DeliveryInDoubt)
    assert took >= timeout
    entry = slow.entry_for(1)
    assert (entry.status, entry.deliveries[0].status) == (Status.IN_DOUBT, DeliveryStatus.IN_DOUBT)
    assert entry.deliveries[0].detail.startswith(
        "no answer"
    )  # by the deadline, or by the client's own time-out
    assert api.ended.wait(5), "nobody goes on waiting for it"
    assert api.requests == requests


BODY_OF = len(UNMEASURED) - 20
"""Octets after which either answer is in its body."""
PLACES = [("mailgun", answer, at) for answer in (MEASURED, UNMEASURED) for at in (0, len(HEAD), BODY_OF)]


@pytest.mark.parametrize(
    ("name", "answer", "at_once"),
    [*PLACES, ("amazon_ses", MEASURED, 0), ("amazon_ses", UNMEASURED, BODY_OF)],
)
def test_an_answer_that_trickles(name: str, answer: bytes, at_once: int, use: Use) -> None:
    """Each piece comes in time, the whole does not: half an answer is none, also where its status says 200."""
    with SlowAPI(answer, at_once=at_once) as api:
        use(name, api.url)
        assert_cut_at_the_deadline(api, 1)


@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_a_client_that_the_body_has_opened(name: str, use: Use) -> None:
    """It was made with timeouts of its own, and has the same deadline."""
    with SlowAPI() as api:
        use(name, api.url)
        assert_cut_at_the_deadline(api, 1, own=True)


@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_an_answer_that_trickles_in_tls(name: str, use: Use, tls: ssl.SSLContext) -> None:
    """The same in TLS, whose records are cut as well."""
    with SlowAPI(tls=tls) as api:
        use(name, api.url)
        assert_cut_at_the_deadline(api, 1)


@pytest.mark.parametrize("length", [100_000, 6_000_000], ids=["in the kernel", "in the client"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_request_that_is_read_slowly(
    encrypted: bool, length: int, use: Use, tls: ssl.SSLContext, monkeypatch: Any
) -> None:
    """What has not arrived by the deadline never does, wherever it waits: the provider sees no end of it."""
    timeout = 3.0 if length > 1_000_000 else TIMEOUT
    monkeypatch.setattr(slow, "send_timeout", timeout)
    with SlowAPI(reads=500, tls=tls if encrypted else None) as api:
        use("mailgun", api.url)
        assert_cut_at_the_deadline(api, 0, timeout, body="x" * length)


def test_a_request_may_take_longer_than_its_connection(use: Use, monkeypatch: Any) -> None:
    """A large mail over a slow line has the send deadline, not the quarter of it that the connection has."""
    monkeypatch.setattr(slow, "send_timeout", 4.0)
    with SlowAPI(at_once=len(MEASURED), reads=500, rests=1.5) as api:
        use("mailgun", api.url)
        assert slow.apply((1, "x" * 6_000_000)).get() == "sent"
    assert api.requests == 1


@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_an_answer_that_trickles_through_a_proxy(name: str, use: Use, monkeypatch: Any) -> None:
    """The connection is the proxy's then."""
    with SlowAPI() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        use(name, "http://api.example.com/")
        assert_cut_at_the_deadline(proxy, 1)


def test_a_proxy_that_trickles(use: Use, monkeypatch: Any) -> None:
    """It has nothing of the request yet, and gets nothing of it after the deadline: definite."""
    with SlowAPI(tunnel=b"HTTP/1.1 200 OK\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        use("mailgun", "https://api.example.com/")
        assert isinstance(slow.apply((1,)).result, RecipientsDeferred)
        assert proxy.ended.wait(5)
    assert slow.entry_for(1).deliveries[0].detail.startswith("not sent")


def test_a_connection_that_comes_too_late(use: Use, monkeypatch: Any) -> None:
    """P1: no request begins when others may act on the deadline; without one it is definite."""
    look_up = socket.getaddrinfo

    def late(*args: Any, **kwargs: Any) -> Any:
        time.sleep(TIMEOUT + 0.1)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", late)
    with API() as api:
        use("mailgun", api)
        assert isinstance(slow.apply((1,)).result, RecipientsDeferred)
    assert api.requests == []
    assert slow.entry_for(1).deliveries[0].detail.startswith("not sent")
