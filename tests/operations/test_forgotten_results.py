"""What a task has returned may show an address in many forms; whoever is forgotten is in none of them."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask, Status
from celery_idempotent.operations.erasure import forget
from tests.support.mailserver import ScriptedSMTP

app = Celery("forgotten-results", broker="memory://", backend="cache+memory://", set_as_current=False)
ANN = "ann+shop@example.com"


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="telling")
def telling(n: int, result: Any) -> Any:
    EmailMessage("Hi", "text", to=[ANN]).send()
    return result


@pytest.mark.parametrize(
    ("result", "left"),
    [
        ({"link": "https://shop.example/off?a=ann%2Bshop%40example.com&b=1"}, False),
        ({"link": "https://shop.example/off?a=ann+shop%40Example.com"}, False),
        ({"to": ["Ann <ANN+Shop@EXAMPLE.com>"]}, False),
        ({ANN: 1}, False),
        ({"to": "bob@example.com"}, True),
    ],
)
@pytest.mark.django_db
def test_a_result_that_shows_the_address_goes(
    memory_ledger: Any, tracked: None, server: ScriptedSMTP, result: Any, left: bool
) -> None:
    """P7: also as part of a link, such as one to unsubscribe; the email stays sent."""
    assert telling.apply((1, result)).get() == result
    forget(ANN, "dpo", "asked to be forgotten", app)
    entry = telling.entry_for(1, result)
    assert (entry.status, entry.result) == (Status.SENT, result if left else None)
