"""Bodies that make a swallowed error good: by another server, another try or another connection."""

from __future__ import annotations

import smtplib
from typing import Any

import pytest
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import RecipientsDeferred
from celery_idempotent.ledger.status import DeliveryStatus
from tests.mail.swallowing import LATER, quietly, task
from tests.support.mailserver import ScriptedSMTP


@pytest.mark.parametrize("first", ["refused connection", LATER, "421 busy"])
@pytest.mark.parametrize("sender", [None, "other@example.com"])
def test_a_fallback_of_the_bodys_own(settings: Any, first: str, sender: str | None) -> None:
    """Another server takes it, from another sender too: SENT, one copy, nothing to try again."""

    @task()
    def falling_back(n: int) -> str:
        quietly()
        quietly(connection=get_connection(port=reserve.port), from_email=sender)
        return "done"

    script = {"banner": first} if first.startswith("421") else {"rcpt": first}
    with ScriptedSMTP(**script) as server, ScriptedSMTP() as reserve:
        settings.EMAIL_PORT = 1 if first.startswith("refused") else server.port
        assert falling_back.apply((1,)).get() == "done"
        assert falling_back.apply((1,)).get() == "done"
    assert (len(server.accepted), len(reserve.accepted)) == (0, 1)
    entry = falling_back.entry_for(1)
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.ACCEPTED]


def test_sent_again_by_the_body_itself(settings: Any) -> None:
    """The second try served who was left over."""

    @task()
    def twice(n: int) -> str:
        for _ in range(2):
            quietly("ann@example.com", "bob@example.com")
        return "done"

    answers = iter([LATER])
    with ScriptedSMTP(rcpt=lambda line: next(answers, "250 ok") if "bob" in line else "250 ok") as server:
        settings.EMAIL_PORT = server.port
        assert twice.apply((1,)).get() == "done"
    assert [received.recipients for received in server.accepted] == [["ann@example.com"], ["bob@example.com"]]


def test_another_message_to_the_same_person_settles_nothing(settings: Any) -> None:
    """An invoice is no order confirmation."""

    @task()
    def two(n: int) -> None:
        for subject in ("Your order", "Your invoice"):
            try:
                EmailMessage(subject, "text", to=["ann@example.com"]).send()
            except smtplib.SMTPException:
                continue

    with ScriptedSMTP(rcpt=[LATER, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(two.apply((1,)).result, RecipientsDeferred)
        assert two.apply((1,)).state == "SUCCESS"
    assert [str(received.headers["Subject"]) for received in server.accepted] == ["Your invoice", "Your order"]


@pytest.mark.parametrize("falls_back", [True, False])
def test_a_connection_that_the_body_cannot_open(settings: Any, falls_back: bool) -> None:
    """There is no message yet that it would be about; sending over another one makes it good."""

    @task()
    def opening(n: int) -> str:
        try:
            with get_connection(port=1) as connection:
                quietly(connection=connection)
        except OSError:
            if falls_back:
                quietly()
        return "done"

    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        result = opening.apply((1,))
    assert (result.state, len(server.accepted)) == (("SUCCESS", 1) if falls_back else ("FAILURE", 0))
    assert falls_back or isinstance(result.result, ConnectionRefusedError)
