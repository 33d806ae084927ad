"""A server that offers SMTPUTF8 and then does not take it: those who can do without get the mail."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask, RecipientsRefused
from celery_idempotent.ledger.addresses import mask
from tests.support.mailserver import ScriptedSMTP

app = Celery("smtputf8", broker="memory://", backend="cache+memory://", set_as_current=False)
ANN, JOSE = "ann@example.com", "jos\u00e9@example.com"
pytestmark = pytest.mark.usefixtures("memory_ledger", "tracked")


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="smtputf8-refused", max_retries=0)
def send(n: int, blind: list[str], sender: str | None = None) -> str:
    EmailMessage("Hi", "text", from_email=sender, to=[ANN], bcc=blind).send()
    return "sent"


def mail(reply: str) -> Any:
    """Answer ``reply`` to MAIL with SMTPUTF8."""
    return lambda line: reply if "SMTPUTF8" in line.upper() else "250 ok"


def served(settings: Any, reply: str, *args: Any) -> tuple[Any, ScriptedSMTP]:
    with ScriptedSMTP(ehlo="250-test\r\n250-8BITMIME\r\n250 SMTPUTF8", mail=mail(reply)) as server:
        settings.EMAIL_PORT = server.port
        return send.apply((1, *args)).result, server


@pytest.mark.parametrize("reply", ["550 5.6.7 not here", "553 5.6.7 not here"])
def test_whoever_needs_it_is_refused_alone(settings: Any, reply: str) -> None:
    """As with a server that does not offer it (RFC 6531 §3.5)."""
    error, server = served(settings, reply, [JOSE])
    assert isinstance(error, RecipientsRefused)
    assert [received.recipients for received in server.accepted] == [[ANN]]
    known = {d.recipient.shown: (d.status.value, d.code) for d in send.entry_for(1, []).deliveries}
    assert known == {mask(ANN): ("accepted", 250), mask(JOSE): ("refused", int(reply[:3]))}


@pytest.mark.parametrize(
    ("reply", "blind", "sender"),
    [("550 5.6.7 not here", [], "jos\u00e9@example.com"), ("550 5.7.1 no leave", [JOSE], None)],
    ids=["the sender needs it", "another reason"],
)
def test_a_refusal_of_the_sender_stays_one(settings: Any, reply: str, blind: Any, sender: Any) -> None:
    """No recipient is refused for it: it is the sender who has to be mended."""
    error, server = served(settings, reply, blind, sender)
    assert type(error).__name__ == "SMTPSenderRefused"
    assert server.accepted == []
    assert send.entry_for(1, []).deliveries == ()
