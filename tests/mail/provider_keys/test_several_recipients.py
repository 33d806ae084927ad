"""One key for one transaction: who is in doubt, deferred or refused beside others, and who is named anew."""

from __future__ import annotations

import random
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from django.core.mail import EmailMessage

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, RecipientsRefused, Status
from celery_idempotent.ledger.status import DeliveryStatus
from tests.mail.provider_keys.confirmations import (
    ANN,
    BOB,
    app,
    confirm,
    entry,
    resent,
    run,
    send,
)
from tests.support.mailserver import DROP, DROP_AFTER_ACCEPT, by_name
from tests.support.providers import KeyedSMTP


@pytest.mark.parametrize("task", [confirm, resent], ids=["confirm", "resent"])
def test_one_who_is_refused_does_not_end_the_doubt_about_another(settings: Any, task: Any) -> None:
    """P1, P2: Bob is refused by name; Ann's doubt is not answered by that, and ends by offering it again."""
    script: dict[str, Any] = {"rcpt": by_name(bob="550 5.1.1 nobody"), "dot": [DROP_AFTER_ACCEPT, "250 ok"]}
    with KeyedSMTP(**script) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(task.apply((1, [ANN, BOB])).result, RecipientsRefused)
    assert [received.recipients for received in server.accepted] == [["ann@example.com"]]
    assert len(set(server.keys)) == 1
    assert {d.status for d in task.entry_for(1, []).deliveries} == {
        DeliveryStatus.ACCEPTED,
        DeliveryStatus.REFUSED,
    }


def test_one_who_is_refused_by_the_second_offer_does_not_end_it_for_another(settings: Any) -> None:
    """P2: no final word about Ann, whose reply is lost once more; the third offer gets it."""
    rcpt = ["250 ok", "250 ok", *["250 ok", "550 5.1.1 nobody"] * 2]
    with KeyedSMTP(rcpt=rcpt, dot=[DROP_AFTER_ACCEPT, DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert isinstance(send(server, settings, ANN, BOB).result, DeliveryInDoubt)
    assert len(server.keys) == 3
    assert len(set(server.keys)) == len(server.accepted) == 1
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT]


def test_each_transaction_has_a_key_of_its_own(settings: Any) -> None:
    """P2: a list that is split by the server's limit is as many messages to the provider."""
    people = [f"p{n}@example.com" for n in range(5)]
    taken: list[str] = []

    def begin(line: str) -> str:
        taken.clear()
        return "250 ok"

    def limit(line: str) -> str:
        taken.append(line)
        return "452 too many recipients" if len(taken) > 2 else "250 ok"

    with KeyedSMTP(mail=begin, rcpt=limit, dot=["250 ok", DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert send(server, settings, *people).get() == "sent 1"
    assert sorted(who for received in server.accepted for who in received.recipients) == people
    assert len(server.accepted) == len(set(server.keys)) == 3


@pytest.mark.parametrize(("lost", "offers"), [(0, 2), (3, 5)], ids=["accepted", "in doubt"])
def test_a_deferred_recipient_gets_a_message_of_its_own(settings: Any, lost: int, offers: int) -> None:
    """P2: under Ann's key the provider would take it for what it has. If hers is in doubt, hers comes first."""
    greylist = by_name(bob="450 4.7.1 come back")
    with KeyedSMTP(rcpt=greylist, dot=[*[DROP_AFTER_ACCEPT] * lost, "250 ok"]) as server:
        send(server, settings, ANN, BOB)
        server.script["rcpt"] = "250 ok"
        assert send(server, settings, ANN, BOB).get() == "sent 1"
    assert [received.recipients for received in server.accepted] == [[ANN], [BOB]]
    assert (len(server.keys), len(set(server.keys))) == (offers, 2)


def test_a_server_that_takes_fewer_recipients_now(silent: KeyedSMTP) -> None:
    """P2: the rest is not offered under the same key, which would get it a yes and no mail."""
    run(ANN, BOB)
    offered = len(silent.keys)
    silent.script |= {"rcpt": ["250 ok", "452 too many recipients", "250 ok"], "dot": "250 ok"}
    silent.forget_calls()
    assert isinstance(run(ANN, BOB).result, DeliveryInDoubt)
    assert len(silent.keys) == offered + 1
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT]
    assert entry().status is Status.IN_DOUBT


def test_a_server_that_took_fewer_recipients_for_a_while(settings: Any) -> None:
    """P2: Bob was in the first offer, which got lost, and not in the second, which is what the provider has."""
    rcpt = ["250 ok", "250 ok", "250 ok", "450 4.2.0 later", "250 ok"]
    with KeyedSMTP(rcpt=rcpt, dot=[DROP, DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert isinstance(send(server, settings, ANN, BOB).result, DeliveryInDoubt)
    assert [received.recipients for received in server.accepted] == [[ANN]]
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT]


def test_a_body_that_addresses_others_now_does_not_offer_it_again(silent: KeyedSMTP) -> None:
    """The doubt is about Ann and Bob; a message to Ann alone cannot settle it."""
    run(ANN, BOB)
    offered = len(silent.keys)
    silent.script["dot"] = "250 ok"
    assert isinstance(run(ANN).result, DeliveryInDoubt)
    assert len(silent.keys) == offered
    assert run(ANN, BOB).get() == "sent 1"
    assert len(silent.accepted) == 1


def test_a_resend_to_others_than_those_in_doubt(silent: KeyedSMTP) -> None:
    """P2: the doubt about Ann and Bob cannot end under their key when the body addresses Ann alone now."""
    resent.apply((1, [ANN, BOB]))
    silent.script["dot"] = "250 ok"
    assert isinstance(resent.apply((1, [ANN])).result, SMTPServerDisconnected)
    assert resent.apply((1, [ANN])).get() == "sent"
    assert [received.recipients for received in silent.accepted][1:] == [[ANN]]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="two-messages", max_retries=0)
def in_this_order(order: int, parts: str) -> str:
    for part in parts:
        message = EmailMessage("Yours", f"meant for {part}, {random.random()}", to=[f"{part}@example.com"])
        message.idempotency_part = part
        message.send()
    return "sent"


@pytest.mark.parametrize("reply", ["450 later", "550 no", "250 ok", DROP, DROP_AFTER_ACCEPT])
def test_a_doubt_is_never_settled_with_another_messages_content(silent: KeyedSMTP, reply: str) -> None:
    """P1: a body that runs again in another order hands over Bob's while Ann's is in doubt: hers is held."""
    in_this_order.apply((1, "ab"))
    silent.script["dot"] = reply
    in_this_order.apply((1, "ba"))
    silent.script["dot"] = "250 ok"
    for _ in range(2):
        assert isinstance(in_this_order.apply((1, "ab")).result, DeliveryInDoubt)
    kept = in_this_order.entry_for(1, "")
    assert kept.deliveries[0].status is DeliveryStatus.IN_DOUBT
    assert kept.sealed == kept.provider_key == ""
    for received in silent.accepted:
        (who,) = received.recipients
        assert f"meant for {who[0]}," in received.data.decode()
    assert len({received.recipients[0] for received in silent.accepted}) == len(silent.accepted)
