"""Webhooks that are forged: nobody is let in, and the genuine one still counts."""

from __future__ import annotations

from typing import Any

import pytest

from celery_idempotent import Status
from celery_idempotent.contrib.anymail.message_marks import Mark
from celery_idempotent.mail.transport_protocol import HandOverId
from tests.anymail import signing, webhooks
from tests.anymail.forging import ANYWHERE, FORGERIES, without
from tests.anymail.receipts import ANN, entry
from tests.anymail.webhooks import WEBHOOKS

SIGNED = ["mailgun", "sendgrid", "resend"]
EACH = [(name, change) for name, more in FORGERIES.items() for change in [*ANYWHERE, *more]]


@pytest.mark.parametrize(("name", "change"), EACH)
def test_a_forged_webhook_is_refused(name: str, change: str, doubtful: Any, told: Any) -> None:
    """Anymail answers with an error, and nothing of it gets as far as the ledger; the genuine one does."""
    mark = doubtful(name)
    before = entry()
    genuine = WEBHOOKS[name]("delivered", ANN, mark)
    _, body, headers = genuine
    forge = {**ANYWHERE, **FORGERIES[name]}[change]
    status = 401 if (name, change) == ("amazon_ses", "no password") else 400
    assert told((name, *forge(body, headers))) == status
    assert entry() == before
    assert entry().status is Status.IN_DOUBT
    assert told(genuine) == 200
    assert entry().status is Status.SENT


@pytest.mark.parametrize("name", SIGNED)
def test_a_webhook_that_a_stranger_signed_is_refused(name: str, doubtful: Any, told: Any) -> None:
    """With the right password, and a key that is not the account's."""
    mark = doubtful(name)
    before = entry()
    assert told(WEBHOOKS[name]("delivered", ANN, mark, stranger=True)) == 400
    assert entry() == before


@pytest.mark.parametrize("name", SIGNED)
def test_a_signature_is_enough(name: str, doubtful: Any, told: Any, monkeypatch: Any) -> None:
    """Without ``WEBHOOK_SECRET`` the provider's own signature still keeps strangers out."""
    mark = doubtful(name)
    before = entry()
    monkeypatch.setitem(signing.SETTINGS, "WEBHOOK_SECRET", [])
    genuine, forged = (WEBHOOKS[name]("delivered", ANN, mark, stranger=stranger) for stranger in (False, True))
    assert told((*forged[:2], without(forged[2], "authorization"))) == 400
    assert entry() == before
    assert told((*genuine[:2], without(genuine[2], "authorization"))) == 200
    assert entry().status is Status.SENT


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_mark_that_was_made_up_lets_nobody_in(name: str, doubtful: Any, told: Any) -> None:
    """Mailgun signs no content, others have a password alone: who can post has no other mark for all that."""
    mark = doubtful(name)
    before = entry()
    other = HandOverId(before.key, 1, 1, "<other@x>", before.begun_at)
    for made_up in (
        {**mark, Mark.SIGNATURE: "0" * 43},
        {**mark, Mark.SIGNATURE: ""},
        {**mark, Mark.PLACE: mark[Mark.PLACE].replace("1.1.", "1.2.")},
        {**mark, Mark.PLACE: mark[Mark.PLACE].replace(".w", ".e")},
        {**mark, Mark.PLACE: "1.1"},
        {**mark, Mark.KEY: "1:" + "0" * 64},
        {**mark, Mark.KEY: ""},
        {**mark, Mark.SIGNATURE: Mark.write(other, True)[Mark.SIGNATURE]},
        {key: value for key, value in mark.items() if key != Mark.SIGNATURE},
        {**mark, Mark.PLACE: ["1"]},
        {**mark, Mark.KEY: None},
        {},
    ):
        assert told(WEBHOOKS[name]("delivered", ANN, made_up)) == 200
    assert entry() == before


def test_a_secret_of_before_counts_as_long_as_it_is_kept(doubtful: Any, told: Any, settings: Any) -> None:
    """``SECRET_KEY`` was changed while a doubt waited: its marks are good by ``SECRET_KEY_FALLBACKS`` alone."""
    mark = doubtful("postmark")
    before, old = entry(), settings.SECRET_KEY
    settings.SECRET_KEY = "another one, which is also at least fifty characters long"
    assert told(webhooks.postmark("delivered", ANN, mark)) == 200
    assert entry() == before
    settings.SECRET_KEY_FALLBACKS = [old]
    assert told(webhooks.postmark("delivered", ANN, mark)) == 200
    assert entry().status is Status.SENT
