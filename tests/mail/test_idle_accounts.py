"""A worker that sends by many accounts does not keep a connection open for each that it has ever used."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.mail.smtp.connections import pool
from tests.support.mailserver import ScriptedSMTP

app = Celery("accounts", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="by-account", send_timeout=10.0, max_retries=0)
def send(n: int) -> str:
    account = get_connection(username=f"shop-{n}")
    EmailMessage("Hi", "text", to=["ann@example.com"], connection=account).send()
    return "sent"


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger and no connection."""


def test_connections_of_accounts_that_are_not_used_any_more_are_closed(
    server: ScriptedSMTP, settings: Any
) -> None:
    """After the idle limit, when the next message goes out, by whatever account that is."""
    for n in range(5):
        assert send.apply((n,)).get() == "sent"
    opened = pool.idle()
    assert [smtp.sock is None for smtp in opened] == [False] * 5
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0.01}
    time.sleep(0.02)
    assert send.apply((9,)).get() == "sent"
    assert [smtp.sock is None for smtp in opened] == [True] * 5
