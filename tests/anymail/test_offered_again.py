"""Whom a request is for: each mailbox once; when it comes again, nobody who was served, and somebody in To."""

from __future__ import annotations

import pytest
from django.core import mail

from celery_idempotent.exceptions import RecipientsDeferred
from tests.anymail.conftest import Use
from tests.anymail.outbox import answer, params
from tests.anymail.receipts import ACCEPTED, ANN, BOB, CAT, receipt, send, statuses
from tests.support.providers import API

pytestmark = pytest.mark.usefixtures("outbox")


FIELDS = {"to": ANN, "cc": BOB, "bcc": CAT}


@pytest.mark.parametrize("served", ["to", "cc", "bcc"])
def test_a_retry_is_for_the_others_alone(served: str) -> None:
    """Whoever was served is in no field any more, and Bcc stays hidden."""
    said = {name.partition("@")[0]: "sent" if field == served else "failed" for field, name in FIELDS.items()}
    more = {"cc": [BOB], "bcc": [CAT]}
    assert isinstance(send(**more, anymail_test_response=answer(**said)).result, RecipientsDeferred)
    assert send(**more).get() == "sent"
    given = [{name: [str(one) for one in params(place).get(name, [])] for name in FIELDS} for place in (0, 1)]
    again = {field: [] if field == served else [name] for field, name in FIELDS.items()}
    if served == "to":
        again = {"to": [BOB], "cc": [], "bcc": [CAT]}  # no provider takes a message to nobody
    assert given == [{field: [name] for field, name in FIELDS.items()}, again]


def test_a_message_that_the_project_addressed_so_stays_so() -> None:
    """Cc alone is the project's own choice, and goes out as it is."""
    assert receipt.apply((1, []), {"cc": [BOB]}).get() == "sent"
    assert [str(one) for one in params()["cc"]] == [BOB]
    assert (mail.outbox[0].to, mail.outbox[0].cc) == ([], [BOB])


def test_a_mailbox_that_is_named_twice_is_in_the_request_once() -> None:
    """P1: SendGrid refuses duplicates altogether, and others make two copies."""
    twice = {"cc": ["Ann@Example.com", BOB], "bcc": [BOB.upper(), CAT]}
    assert send(f"Ann <{ANN}>", ANN.upper(), **twice).get() == "sent"
    given = {name: [str(one) for one in params().get(name, [])] for name in FIELDS}
    assert given == {"to": [f"Ann <{ANN}>"], "cc": [BOB], "bcc": [CAT]}


def test_one_named_twice_does_not_move_from_cc_to_to() -> None:
    """Cc alone is the project's own choice here as well."""
    assert receipt.apply((1, []), {"cc": [BOB, BOB.upper()]}).get() == "sent"
    assert ([str(one) for one in params().get("to", [])], [str(one) for one in params()["cc"]]) == ([], [BOB])


def test_content_that_is_frozen_stays_so(use: Use) -> None:
    """The same bytes go out again, and the doubt is settled for each mailbox."""
    with API("drop_after_accept", "ok") as api:
        use("resend", api)
        assert send(ANN, ANN.upper(), cc=[BOB, ANN]).get() == "sent"
    assert api.requests[0].body == api.requests[1].body
    assert api.requests[0].body["to"] == [ANN]
    assert len(api.accepted) == 1
    assert statuses() == [ACCEPTED] * 2
