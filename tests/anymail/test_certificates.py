"""Certificates that do not match, by an API: nothing goes to somebody else's server, and that is definite."""

from __future__ import annotations

import pytest
import trustme

from celery_idempotent import Status
from celery_idempotent.exceptions import RecipientsDeferred
from tests.anymail.conftest import Use, certified
from tests.anymail.receipts import ANN, BOB, DEFERRED, entry, send, statuses
from tests.support.providers import API


@pytest.mark.parametrize("name", ["mailgun", "amazon_ses"])
@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_a_certificate_that_does_not_match(name: str, wrong: str, use: Use, authority: trustme.CA) -> None:
    """No request was made, so nobody is refused or in doubt; it goes out once the certificate is right."""
    other = certified(authority, "mail.example.org") if wrong == "name" else certified(trustme.CA())
    with API(tls=other) as api:
        use(name, api)
        assert isinstance(send(ANN, BOB).result, RecipientsDeferred)
    assert (api.requests, statuses()) == ([], [DEFERRED] * 2)
    assert entry().status is Status.FAILED
    detail = entry().deliveries[0].detail.lower()
    assert detail.startswith("not sent: ")
    words = ("certificate", "certverification", "doesn't match")
    assert any(word in detail for word in words), "it says what is to be mended"
    with API(tls=certified(authority)) as api:
        use(name, api)
        assert send(ANN, BOB).get() == "sent"
    assert len(api.accepted) == 1
