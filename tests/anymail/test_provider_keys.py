"""Providers that recognise a request: a lost reply ends as sent, with one copy, while the key is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, Status
from celery_idempotent.exceptions import DeliveryUnconfirmed
from celery_idempotent.ledger.status import DeliveryStatus
from tests.anymail.conftest import Use
from tests.anymail.receipts import ANN, entry, send, statuses
from tests.support.held_doubts import is_held
from tests.support.providers import API


@pytest.mark.parametrize("name", ["resend", "brevo"])
@pytest.mark.parametrize("word", ["drop_after_accept", "drop", (500, {}), (502, "<html>")])
def test_where_the_provider_recognises_it_a_lost_reply_ends_as_sent(name: str, word: Any, use: Use) -> None:
    """One copy, SENT, nothing of the content left; Brevo says so by an error."""
    with API(word, "ok") as api:
        use(name, api)
        assert send().get() == "sent"
    assert len(api.accepted) == 1
    assert len(api.requests) == 2
    assert entry().status is Status.SENT
    assert entry().sealed == entry().provider_key == ""
    assert entry().attempts == 2


def test_brevo_says_accepted_before(use: Use) -> None:
    """Its ``duplicate_parameter`` is an acceptance; the key is a UUID and the content is not kept for it."""
    with API("drop_after_accept", "ok") as api:
        use("brevo", api, ENCRYPTION_KEYS=[])
        assert send().get() == "sent"
    assert len(api.accepted) == 1
    assert "accepted before" in entry().deliveries[0].detail
    keys = {request.body["headers"]["idempotencyKey"] for request in api.requests}
    assert len(keys) == 1
    assert len(keys.pop()) == 36


@pytest.mark.parametrize("name", ["idempotencyKey", "IDEMPOTENCYKEY", "Idempotencykey"])
def test_a_projects_own_key_does_not_go_beside_the_ledgers(name: str, use: Use) -> None:
    """P1: one header, of the key that the ledger knows and can offer again."""
    with API("drop_after_accept", "ok") as api:
        use("brevo", api)
        assert send(extra_headers={name: "my own key"}).get() == "sent"
    for request in api.requests:
        keys = [(k, v) for k, v in request.body["headers"].items() if k.lower() == "idempotencykey"]
        assert [k for k, _ in keys] == ["idempotencyKey"]
        assert keys[0][1] != "my own key"
    assert len(api.accepted) == 1


def test_resend_is_sent_the_same_bytes(use: Use) -> None:
    """The body renders other content each time; what goes out under one key does not differ."""
    with API("drop_after_accept", "drop_after_accept", "ok") as api:
        use("resend", api)
        assert send().get() == "sent"
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 1
    assert api.requests[0].body == api.requests[1].body == api.requests[2].body


def test_the_task_that_comes_back_sends_the_same_bytes(use: Use) -> None:
    """Another run, and another process as well, has only what is sealed."""
    with API("drop_after_accept") as api:
        use("resend", api)
        assert isinstance(send().result, DeliveryUnconfirmed)
        assert entry().status is Status.IN_DOUBT
        assert ANN not in repr(entry())
        api.script = ["ok"]
        assert send().get() == "sent"
    assert len(api.accepted) == 1
    assert all(request.body == api.requests[0].body for request in api.requests)


def test_resend_without_encryption_keys_is_held(use: Use) -> None:
    """No key goes out that nobody relies on."""
    with API("drop_after_accept", "ok") as api:
        use("resend", api, ENCRYPTION_KEYS=[])
        result = send().result
    assert is_held(result)
    assert len(api.requests) == 1
    assert "idempotency-key" not in api.requests[0].headers


def test_other_content_under_a_known_key_is_not_tried_again(use: Use, memory_ledger: Any) -> None:
    """A ledger that was set back makes the key that the provider knows: one copy, and somebody has to look."""
    with API("drop_after_accept") as api:
        use("resend", api)
        send()
        memory_ledger.store.clear()
        api.script = ["ok"]
        before = len(api.requests)
        result = send().result
    assert is_held(result)
    assert len(api.requests) == before + 1
    assert len(api.accepted) == 1
    assert statuses() == [DeliveryStatus.IN_DOUBT]
    assert "other content" in entry().deliveries[0].detail


BUSY = (409, {"statusCode": 409, "name": "concurrent_idempotent_requests", "message": "in progress"})


def test_an_earlier_offer_that_is_still_being_worked_on(use: Use) -> None:
    """Resend's 409 for concurrent requests is a doubt; it passes."""
    with API("drop_after_accept", BUSY, "ok") as api:
        use("resend", api)
        assert send().get() == "sent"
    assert len(api.accepted) == 1
    assert len(api.requests) == 3


def test_a_first_offer_that_another_one_is_ahead_of(use: Use) -> None:
    """P1: the ledger was set back, and the provider knows better; under a new key there would be two."""
    with API(BUSY, "ok") as api:
        use("resend", api)
        assert send().get() == "sent"
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 1
    assert len(api.accepted) == 1


def test_after_the_providers_time_it_is_held(use: Use, clock: Callable[[float], None]) -> None:
    """No request goes out any more, and what was kept for one is gone."""
    with API("drop_after_accept") as api:
        use("resend", api)
        send()
        assert entry().sealed
        clock(24 * 3600)
        before = len(api.requests)
        result = send().result
    assert is_held(result)
    assert len(api.requests) == before
    assert (entry().status, entry().sealed, entry().provider_key) == (Status.IN_DOUBT, "", "")


def test_another_account_is_not_offered_it(use: Use, settings: Any) -> None:
    """P1: keys are the account's."""
    with API("drop_after_accept") as api:
        use("resend", api)
        send()
        settings.ANYMAIL = {**settings.ANYMAIL, "RESEND_API_KEY": "another"}
        before = len(api.requests)
        assert isinstance(send().result, DeliveryInDoubt)
    assert len(api.requests) == before
