"""What the documentation of Resend and Brevo says about keys: their names, forms and times, on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from celery_idempotent import Status
from celery_idempotent.exceptions import DeliveryUnconfirmed
from celery_idempotent.mail import providers
from celery_idempotent.mail.providers import Deduplication
from tests.anymail.conftest import Use
from tests.anymail.receipts import ANN, BOB, entry, receipt, send
from tests.support.held_doubts import is_held
from tests.support.providers import API

MINUTE, HOUR = 60.0, 3600.0
DOCUMENTED = {"resend": (providers.API["Resend"], 24 * HOUR), "brevo": (providers.API["Brevo"], 30 * MINUTE)}
"""How long a key is known by what the provider writes: resend.com/docs/dashboard/emails/idempotency-keys,
developers.brevo.com/docs/heterogenous-versions-batch-emails (an announcement of 2021 still says 15 minutes)."""
TIMEOUT = 30.0


@pytest.fixture(autouse=True)
def _send_timeout(monkeypatch: Any) -> None:
    """The last offer has so many seconds."""
    monkeypatch.setattr(receipt, "send_timeout", TIMEOUT)


def key(name: str, sent: Any) -> str:
    """Return the key of a request, from where the provider looks for it and nowhere else."""
    in_message = sent.body.get("headers") or {}
    if name == "brevo":
        assert "idempotency-key" not in sent.headers
        return str(in_message["idempotencyKey"])
    assert not {header for header in in_message if "idempotency" in header.lower()}
    return str(sent.headers["idempotency-key"])


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_key_stands_where_the_provider_looks_for_it(name: str, use: Use) -> None:
    """Resend: an HTTP header of 1 to 256 characters. Brevo: a UUID in the message's headers."""
    with API() as api:
        use(name, api)
        send()
    found = key(name, api.requests[0])
    assert found.isascii()
    assert found.isprintable()
    assert 1 <= len(found) <= 256
    if name == "brevo":
        assert str(UUID(found)) == found


@pytest.mark.parametrize("name", DOCUMENTED)
def test_each_hand_over_has_a_key_of_its_own(name: str, use: Use) -> None:
    """P2: a key that came twice would get the second mail a yes and nothing else."""
    with API((429, {"code": "too_many", "message": "later"}), "ok") as api:
        use(name, api)
        send()
        send()
        send(order=2)
        send(ANN, BOB, order=3)
    assert len({key(name, sent) for sent in api.requests}) == len(api.requests) == 4


@pytest.mark.parametrize(("provider", "seconds"), DOCUMENTED.values(), ids=DOCUMENTED)
def test_no_longer_than_the_provider_says(provider: Deduplication, seconds: float) -> None:
    """Shorter is safe: it is held then. Brevo's half hour is "about" one."""
    assert provider.seconds <= seconds
    assert provider.seconds >= seconds * 0.8


@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.parametrize("early", [1.0, -1.0])
def test_until_the_last_moment_and_never_after(name: str, early: float, use: Use, clock: Any) -> None:
    """An offer has to be over before the provider may forget: the last begins ``send_timeout`` before that."""
    with API("drop_after_accept") as api:
        use(name, api)
        assert isinstance(send().result, DeliveryUnconfirmed)
        offered = len(api.requests)
        clock(DOCUMENTED[name][0].seconds - TIMEOUT - early)
        api.script = ["ok"]
        result = send()
    assert len(api.accepted) == 1
    if early > 0:
        assert result.get() == "sent"
        assert entry().status is Status.SENT
        assert len(api.requests) == offered + 1
        assert len({key(name, sent) for sent in api.requests}) == 1
    else:
        assert is_held(result.result)
        assert len(api.requests) == offered
        assert entry().status is Status.IN_DOUBT


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_time_counts_from_the_first_use(name: str, use: Use, clock: Any) -> None:
    """P1: the provider forgets by when it first saw the key, however often it has seen it since."""
    seconds = DOCUMENTED[name][0].seconds
    with API("drop_after_accept") as api:
        use(name, api)
        send()
        clock(seconds / 2)
        assert isinstance(send().result, DeliveryUnconfirmed)
        offered = len(api.requests)
        clock(seconds + 1)
        result = send().result
    assert is_held(result)
    assert len(api.requests) == offered


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("resend", (400, {"name": "invalid_idempotency_key", "message": "1-256 characters"})),
        ("brevo", (400, {"code": "invalid_parameter", "message": "sender is missing"})),
        ("brevo", (401, {"code": "unauthorized", "message": "duplicate"})),
    ],
)
def test_another_error_is_no_word_about_the_key(name: str, answer: Any, use: Use) -> None:
    """P2: only the provider's own words for "accepted before" are an acceptance."""
    with API(answer) as api:
        use(name, api)
        assert send().state == "FAILURE"
    assert api.accepted == []
    assert entry().sent_at is None
    assert entry().status is not Status.SENT
