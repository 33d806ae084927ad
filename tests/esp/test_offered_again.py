"""Whom a message is for when it is offered again: nobody who was served, and somebody in To."""

from __future__ import annotations

import pytest
from django.core import mail

from celery_idempotent.core.errors import RecipientsDeferred
from tests.esp.outbox import answer, params
from tests.esp.receipts import ANN, BOB, CAT, receipt, send

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
