"""Requests that are not answered: definite if none was made, a doubt from then on."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

import pytest
import requests
from anymail.backends.mailgun import EmailBackend as Mailgun
from anymail.exceptions import AnymailUnsupportedFeature
from celery.exceptions import SoftTimeLimitExceeded
from urllib3 import Retry

from celery_idempotent import DeliveryInDoubt, Status
from celery_idempotent.exceptions import RecipientsDeferred
from celery_idempotent.ledger.status import DeliveryStatus
from tests.anymail.conftest import Use
from tests.anymail.receipts import entry, receipt, send, statuses
from tests.support.providers import API
from tests.support.worker import wait_for


def test_nobody_there_is_definite(use: Use) -> None:
    """Refused, or without a name: no request was made."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "http://nowhere.invalid/"):
        use("mailgun", url)
        assert isinstance(send().result, RecipientsDeferred)
        assert "not sent" in entry().deliveries[0].detail
    use("amazon_ses", f"http://127.0.0.1:{port}/")
    assert isinstance(send().result, RecipientsDeferred)


def test_no_way_there_and_no_credentials_are_definite(use: Use, settings: Any, monkeypatch: Any) -> None:
    """Neither gets as far as a request."""

    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    use("mailgun", "http://192.0.2.1/")
    with monkeypatch.context() as patch:
        patch.setattr("urllib3.util.connection.create_connection", unreachable)
        assert isinstance(send().result, RecipientsDeferred)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with API() as api:
        use("amazon_ses", api)
        params = settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]
        settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"] = {
            name: value for name, value in params.items() if not name.startswith("aws_")
        }
        assert isinstance(send().result, RecipientsDeferred)
    assert api.requests == []


def test_what_fails_before_the_request_is_not_written(use: Use) -> None:
    """Anymail's complaints about a message are the developer's: raised, and the key is free."""
    with API() as api:
        use("resend", api)
        error = send(template_id="welcome").result
        assert isinstance(error, AnymailUnsupportedFeature)
        assert entry().attempts == 0
        assert send().get() == "sent"
    assert len(api.requests) == 1


def patience(settings: Any, seconds: Any) -> None:
    """Have the project's own client wait so long, or so long for a connection and so long for an answer."""
    settings.ANYMAIL["REQUESTS_TIMEOUT"] = seconds
    connect, read = seconds if isinstance(seconds, tuple) else (seconds, seconds)
    if (client := settings.ANYMAIL.get("AMAZON_SES_CLIENT_PARAMS")) is not None:
        client["config"] |= {"connect_timeout": connect, "read_timeout": read}


@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_an_answer_that_does_not_come_in_time_is_doubt(name: str, use: Use, settings: Any) -> None:
    """The client's patience ends; what the server makes of the request, nobody knows."""
    with API("slow") as api:
        use(name, api)
        patience(settings, 0.3)
        assert isinstance(send().result, DeliveryInDoubt)
        wait_for(lambda: api.accepted)
    assert len(api.requests) == 1


@pytest.mark.parametrize("own", [30, (3, 30), (None, None), None])
@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_the_send_timeout_is_the_clients_as_well(
    name: str, own: Any, use: Use, settings: Any, monkeypatch: Any
) -> None:
    """Clients wait 30 seconds, or for ever; nobody else may act on the deadline before they give up."""
    monkeypatch.setattr(receipt, "send_timeout", 0.5)
    with API("slow") as api:
        use(name, api)
        patience(settings, own)
        began = time.monotonic()
        assert isinstance(send().result, DeliveryInDoubt)
    assert time.monotonic() - began < 15


def test_most_of_the_send_timeout_is_left_after_connecting(use: Use, monkeypatch: Any) -> None:
    """P1: a connection that comes late carries no request after the deadline, when others may send."""
    given: list[Any] = []
    monkeypatch.setattr(receipt, "send_timeout", 8)
    with API() as api:
        use("mailgun", api)
        made = requests.Session.request
        monkeypatch.setattr(
            requests.Session, "request", lambda *a, **k: given.append(k["timeout"]) or made(*a, **k)
        )
        assert send().get() == "sent"
    assert given == [(2.0, 8)]


def test_an_interrupted_request_is_doubt(use: Use, monkeypatch: Any) -> None:
    """A soft time limit strikes while the answer is awaited: it goes on its way, and the doubt is on record."""
    post = Mailgun.post_to_esp

    def struck(self: Any, *args: Any) -> Any:
        post(self, *args)
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(Mailgun, "post_to_esp", struck)
    with API() as api:
        use("mailgun", api)
        assert isinstance(send().result, SoftTimeLimitExceeded)
    assert len(api.accepted) == 1
    assert statuses() == [DeliveryStatus.IN_DOUBT]
    assert entry().status is Status.IN_DOUBT


def vanishing(api: API, monkeypatch: Any) -> None:
    """Have ``api`` be gone as soon as it has taken a message."""
    take = api.take

    def take_and_go(sent: Any) -> Any:
        answer = take(sent)
        api.socket.shutdown(socket.SHUT_RDWR)  # right now; a close would wait for whoever polls it
        return answer

    monkeypatch.setattr(api, "take", take_and_go)


@pytest.mark.parametrize("last", [(422, {"message": "no"}), "gone"], ids=["a refusal", "no connection"])
def test_of_a_client_that_retries_nothing_is_definite(
    use: Use, session: Any, monkeypatch: Any, last: Any
) -> None:
    """P1: its last try says nothing about the one before it, which may have been taken."""
    session(Retry(total=1, allowed_methods=None, status_forcelist=[502], backoff_factor=0))
    with API("drop_after_accept", last) as api:
        use("mailgun", api)
        if last == "gone":
            vanishing(api, monkeypatch)
        assert isinstance(send().result, DeliveryInDoubt)
    assert ("NewConnectionError" in entry().deliveries[0].detail) is (last == "gone")
    assert len(api.accepted) == 1


def test_of_a_client_that_retries_broken_tls_nothing_is_definite(
    use: Use, session: Any, monkeypatch: Any, tls: Any
) -> None:
    """P1: ``HTTPAdapter(max_retries=2)`` makes a POST again too; that nobody is there any more says nothing."""
    session(2)
    with API("broken_tls", tls=tls) as api:
        use("mailgun", api)
        vanishing(api, monkeypatch)
        assert isinstance(send().result, DeliveryInDoubt)
        assert "NewConnectionError" in entry().deliveries[0].detail, "the last try was one that found nobody"
        assert isinstance(send().result, DeliveryInDoubt)
    assert len(api.accepted) == 1
