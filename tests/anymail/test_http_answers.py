"""What the HTTP status of an answer, or an answer that cannot be understood, says about the mail."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, Status
from celery_idempotent.contrib.anymail.message_marks import Mark
from celery_idempotent.exceptions import RecipientsDeferred, RecipientsRefused
from celery_idempotent.ledger.status import DeliveryStatus
from tests.anymail.conftest import PROVIDERS, Use
from tests.anymail.receipts import ANN, entry, metadata, send
from tests.support.held_doubts import is_held
from tests.support.providers import API


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_message_is_accepted_and_replayed(name: str, use: Use) -> None:
    """P1, P3: one copy, whose mark names the entry and holds no address."""
    with API() as api:
        use(name, api)
        assert send().get() == "sent"
        assert send().get() == "sent"
        mark = metadata(api, name)
    assert len(api.requests) == 1
    read = Mark.read(mark)
    assert read is not None
    assert read.key == entry().key
    assert ANN not in str(mark)
    assert entry().status is Status.SENT
    assert entry().deliveries[0].status is DeliveryStatus.ACCEPTED


HELD = sorted(set(PROVIDERS) - {"resend", "brevo"})
LOST = ["drop_after_accept", "drop", "garbage", (500, {}), (502, "<html>"), (504, "")]


@pytest.mark.parametrize(
    ("name", "word"),
    # SendGrid's answer has no content that could be garbled.
    [(name, word) for name in HELD for word in LOST if (name, word) != ("sendgrid", "garbage")],
)
def test_without_a_definite_answer_it_is_held(name: str, word: Any, use: Use) -> None:
    """P1: one request, one copy at most, and the entry says that nobody knows."""
    with API(word, "ok") as api:
        use(name, api)
        first, second = send().result, send().result
    assert is_held(first)
    assert is_held(second)
    assert len(api.requests) == 1
    assert len(api.accepted) == (1 if word == "drop_after_accept" else 0)
    assert entry().status is Status.IN_DOUBT


NOT_NOW = [401, 402, 403, 404, 408, 409, 421, 425, 429, 451, 501, 505]
NEVER = [400, 413, 414, 415, 422]
UNCLEAR = [500, 502, 503, 504, 507, 520, 302, 304]


@pytest.mark.parametrize("status", NOT_NOW)
def test_an_answer_that_says_not_now(status: int, use: Use) -> None:
    """P2: nothing was taken, and another try may be."""
    with API((status, {"message": f"no, not {ANN}"}), "ok") as api:
        use("mailgun", api)
        assert isinstance(send().result, RecipientsDeferred)
        assert ANN not in entry().deliveries[0].detail
        assert send().get() == "sent"
    assert len(api.accepted) == 1


@pytest.mark.parametrize("status", NEVER)
def test_an_answer_that_says_never(status: int, use: Use) -> None:
    """The same message would be refused again, so it is not offered again."""
    with API((status, {"message": "no"}), "ok") as api:
        use("mailgun", api)
        assert isinstance(send().result, RecipientsRefused)
        assert isinstance(send().result, RecipientsRefused)
    assert len(api.requests) == 1
    assert entry().deliveries[0].code == status


@pytest.mark.parametrize("status", UNCLEAR)
def test_an_answer_that_says_nothing(status: int, use: Use) -> None:
    """P1: a gateway's error may come after the provider took the mail."""
    with API((status, "")) as api:
        use("mailgun", api)
        assert isinstance(send().result, DeliveryInDoubt)
    assert len(api.requests) == 1


def test_a_provider_that_says_when_to_come_back_took_nothing(use: Use) -> None:
    """503 with Retry-After is the service's own word; how long it asks for is handed on to the retry."""
    with API((503, "", {"Retry-After": "17"}), (429, "", {"Retry-After": "19"})) as api:
        use("mailgun", api)
        errors = [send().result, send().result]
    assert all(isinstance(error, RecipientsDeferred) for error in errors)
    assert [error.retry_after for error in errors] == [17.0, 19.0]


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 GMT", "Date": "Thu, 01 Jan 2026 12:00:30 GMT"}, 90.0),
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 -0000", "Date": "Thu, 01 Jan 2026 12:00:30 GMT"}, 90.0),
        ({"retry-after": "45"}, 45.0),
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 GMT", "Date": "Thu, 01 Jan 2026 13:00:00 GMT"}, 1.0),
        ({"Retry-After": "Fri, 01 Jan 9999 00:00:00 GMT"}, 3600.0),
        ({"Retry-After": "9" * 40}, 3600.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Thu, 99 Jan 2026 12:02:00 GMT"}, None),
        ({"Retry-After": "Thu, 01 Jan 2026 12:02:00 +99999999999999999999"}, None),
    ],
)
@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
def test_when_to_come_back_may_be_a_date(headers: Any, wait: float | None, name: str, use: Use) -> None:
    """RFC 9110 §10.2.3, by the provider's own clock where it tells it; nonsense asks for nothing."""
    with API((429, "", headers)) as api:
        use(name, api)
        error = send().result
    assert isinstance(error, RecipientsDeferred)
    assert error.retry_after == wait


def test_a_date_counts_from_now_where_the_provider_tells_no_time(use: Use) -> None:
    """Within the patience of this test."""
    until = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=1000), usegmt=True)
    with API((429, "", {"Retry-After": until, "Date": "yesterday"})) as api:
        use("mailgun", api)
        error = send().result
    assert 500 < error.retry_after <= 1000
