"""``MAILERS`` of Django 6.1: each alias of ours is in the ledger. `tests/conftest.py` leaves older ones out."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage, InvalidMailer, mailers, send_mail, send_mass_mail

from celery_idempotent import IdempotentEmailTask, Status
from tests.support.mailserver import ScriptedSMTP

app = Celery("mailers", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="mailers")
def send(n: int) -> int:
    send_mail("One", "text", None, ["ann@example.com"])
    EmailMessage("Two", "text", to=["ann@example.com"]).send(using="bulk")
    return send_mass_mail([("Three", "text", None, ["ann@example.com"])], using="bulk")


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any) -> None:
    """Every test here starts with an empty ledger, and with no EMAIL_ setting beside ``MAILERS``."""


@pytest.fixture
def server(settings: Any) -> Any:
    """A mail server behind two mailers."""
    with ScriptedSMTP() as server:
        place = {"host": "127.0.0.1", "port": server.port, "timeout": 5}
        ours = {"BACKEND": "celery_idempotent.mail.EmailBackend", "OPTIONS": place}
        smtp = {"backend": "django.core.mail.backends.smtp.EmailBackend"}
        settings.MAILERS = {"default": ours, "bulk": {**ours, "OPTIONS": {**place, **smtp}}}
        yield server


def test_every_alias_is_tracked(server: ScriptedSMTP) -> None:
    """Three messages, each once, whatever way they leave by."""
    assert send.apply((1,)).get() == send.apply((1,)).get() == 1
    assert len(server.accepted) == 3
    entry = send.entry_for(1)
    assert entry.status is Status.SENT
    assert len({delivery.message_id for delivery in entry.deliveries}) == 3


def test_outside_a_task_it_passes_through(server: ScriptedSMTP) -> None:
    """As any mailer."""
    assert EmailMessage("Hi", "text", to=["ann@example.com"]).send(using="bulk") == 1
    assert send_mail("Hi", "text", None, ["ann@example.com"]) == 1
    assert len(server.accepted) == 2


def test_a_misspelt_option_is_the_wrapped_backends_to_refuse(server: ScriptedSMTP, settings: Any) -> None:
    """With Django's own error."""
    settings.MAILERS["bulk"]["OPTIONS"]["hots"] = "mail"
    with pytest.raises(InvalidMailer, match="hots"):
        mailers["bulk"]
