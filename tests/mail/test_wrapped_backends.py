"""What is the project's own stays its own: the backend that it sends with, and a Message-ID that it gives."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from celery_idempotent import RecipientsDeferred
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.handover import HandOver
from tests.mail.bodies import message, run, task
from tests.support.mailserver import ScriptedSMTP


def test_a_backend_of_another_kind_gets_only_who_is_owed(settings: Any) -> None:
    """Such a backend reads recipients from the message, so it gets a reduced one."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    people = ["ann@example.com"]

    @task("growing")
    def growing(n: int, fail: bool) -> None:
        EmailMessage("Hi", "text", to=people[:1], cc=people[1:]).send()
        if fail:
            raise ValueError

    growing.apply((1, True))
    people.append("bob@example.com")
    growing.apply((1, False))
    assert [sent.recipients() for sent in mail.outbox] == [["ann@example.com"], ["bob@example.com"]]


def test_addresses_that_mean_one_mailbox_go_out_once(settings: Any) -> None:
    """P1: as first spelt, in the order of To, Cc and Bcc; the project's own message stays as it was."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    fields = {
        "to": ["Ann <Ann@Example.com>", "ann@example.com"],
        "cc": ["ANN@example.com", "bob@example.com"],
        "bcc": ["Bob@Example.com", "cat@example.com", "ann@EXAMPLE.com"],
    }
    made: list[EmailMessage] = []

    @task("one-mailbox")
    def twice(n: int) -> None:
        made.append(EmailMessage("Hi", "text", **fields))
        made[0].send()

    assert twice.apply((1,)).successful()
    (sent,) = mail.outbox
    assert (sent.to, sent.cc, sent.bcc) == (
        ["Ann <Ann@Example.com>"],
        ["bob@example.com"],
        ["cat@example.com"],
    )
    assert {name: getattr(made[0], name) for name in fields} == fields
    assert len(twice.entry_for(1).deliveries) == 3


def test_a_process_that_stood_still_after_its_write_ahead_sends_nothing(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1: when it wakes up, somebody else may have settled the doubt and sent the mail."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    write_ahead, stood = HandOver.write_ahead, []

    def stand_still(hand_over: HandOver, served: Any) -> None:
        write_ahead(hand_over, served)
        if not stood:
            stood.append(served)
            time.sleep(0.4)

    monkeypatch.setattr(HandOver, "write_ahead", stand_still)

    @task("standing-still", send_timeout=0.2)
    def standing(n: int) -> str:
        EmailMessage("Hi", "text", to=["ann@example.com"]).send()
        return "sent"

    assert isinstance(standing.apply((1,)).result, RecipientsDeferred)
    assert mail.outbox == []
    assert standing.entry_for(1).deliveries[0].status is DeliveryStatus.DEFERRED
    assert standing.apply((1,)).get() == "sent"
    assert len(mail.outbox) == 1


@pytest.mark.parametrize("bcc", [[None], [""], [None, "bob@example.com"]])
def test_an_address_that_is_none_is_passed_over(settings: Any, bcc: list[Any]) -> None:
    """P2: as Django does, so that a setting which is empty keeps no mail back."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"}

    @task(f"copied-to-{bcc}")
    def copied(n: int) -> None:
        EmailMessage("Hi", "text", to=["ann@example.com"], bcc=bcc).send()

    assert copied.apply((1,)).successful()
    (sent,) = mail.outbox
    assert sent.recipients() == ["ann@example.com", *filter(None, bcc)]


class Redirecting(DjangoSMTP):
    """Sends everything to one address, as on a staging system."""

    def send_messages(self, email_messages: Any) -> int:
        for each in email_messages:
            each.to = ["staging@example.com"]
        return super().send_messages(email_messages)


def test_a_wrapped_backends_own_way_of_sending_is_respected(settings: Any) -> None:
    """A subclass of Django's that overrides `send_messages` is one opaque step, not a conversation of ours."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.Redirecting"}

    @task("redirected")
    def redirected(n: int) -> None:
        message("customer@example.com").send()

    with ScriptedSMTP() as server:
        run(server, settings, redirected)
    assert [received.recipients for received in server.accepted] == [["staging@example.com"]]


def test_a_message_id_of_the_projects_own_is_the_one_on_record(settings: Any) -> None:
    """What went out is what the ledger can be searched for."""

    @task("own-id")
    def own(n: int) -> None:
        message(headers={"message-id": "<mine@shop>"}).send()

    with ScriptedSMTP() as server:
        run(server, settings, own)
    assert server.accepted[0].message_id == own.entry_for(1).deliveries[0].message_id == "<mine@shop>"
