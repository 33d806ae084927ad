"""A reply that is lost ends as sent, with one copy, where the provider recognises the message."""

from __future__ import annotations

from typing import Any

from django.core.mail import EmailMessage

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.exceptions import DeliveryUnconfirmed
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.handover import HandOver
from celery_idempotent.mail.provider_keys import ProviderKey
from tests.mail.provider_keys.confirmations import (
    ANN,
    app,
    confirm,
    entry,
    run,
    send,
)
from tests.support.held_doubts import is_held
from tests.support.mailserver import DROP, DROP_AFTER_ACCEPT
from tests.support.providers import KeyedSMTP


def test_a_lost_reply_ends_as_sent_with_one_copy(settings: Any) -> None:
    """The same run offers the same message once more, and the provider recognises it."""
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1
    assert len(server.keys) == 2
    assert len(set(server.keys)) == 1
    assert server.mismatches == 0, "the content was not frozen"
    assert b"\r\n.dots\r\n" in server.accepted[0].data
    assert entry().status is Status.SENT
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED]


def test_the_message_id_on_record_is_that_of_what_was_offered_again(settings: Any) -> None:
    """The provider has what went first, though the project gives each rendering a Message-ID of its own."""
    numbers = iter(range(9))

    @app.task(base=IdempotentEmailTask, key_fields=("order",), name="numbered")
    def numbered(order: int) -> None:
        headers = {"Message-ID": f"<{next(numbers)}@shop>"}
        EmailMessage("Hi", "text", to=[ANN], headers=headers).send()

    with KeyedSMTP(dot=[*[DROP_AFTER_ACCEPT] * 3, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        while numbered.apply((1,)).failed():
            assert next(numbers) < 8
    assert [received.message_id for received in server.accepted] == ["<0@shop>"]
    assert numbered.entry_for(1).deliveries[0].message_id == "<0@shop>"


def test_a_message_that_never_arrived_is_sent_by_the_second_offer(settings: Any) -> None:
    """A lost connection looks the same whether the server took the mail or not; both end with one copy."""
    with KeyedSMTP(dot=[DROP, "250 ok"]) as server:
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1
    assert entry().attempts == 2


def test_nothing_of_the_content_is_left(silent: KeyedSMTP) -> None:
    """P7: encrypted while it may be needed, and gone with the doubt."""
    run()
    kept = entry()
    assert kept.status is Status.IN_DOUBT
    assert kept.sealed
    for secret in ("Your order", ANN, "Order 1"):
        assert secret not in repr(kept)
    silent.script["dot"] = "250 ok"
    assert run().get() == "sent 1"
    assert entry().sealed == entry().provider_key == ""
    assert len(silent.accepted) == 1


def test_tries_of_one_run_are_few_and_then_the_task_comes_back(silent: KeyedSMTP) -> None:
    """`DeliveryUnconfirmed` is a doubt that resolves itself; to an eager caller it is an error."""
    assert isinstance(run().result, DeliveryUnconfirmed)
    assert len(silent.keys) == 1 + len(HandOver.pauses)
    assert len(silent.accepted) == 1
    assert entry().status is Status.IN_DOUBT


def test_a_server_that_is_gone_leaves_the_doubt(settings: Any) -> None:
    """P1: that it cannot be reached any more says nothing about what it took before."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT, banner=["220 hi", "421 closing"]) as server:
        assert isinstance(send(server, settings).result, DeliveryUnconfirmed)
        assert entry().status is Status.IN_DOUBT
        server.script |= {"banner": "220 hi", "dot": "250 ok"}
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1


def test_a_refusal_of_the_second_offer_is_no_proof(settings: Any) -> None:
    """P1: for now or for good, the first offer is still in doubt; one for good is not tried on and on."""
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "550 no"]) as server:
        assert is_held(send(server, settings).result)
        assert len(server.keys) == 2
        server.script |= {"rcpt": "450 later"}
        assert isinstance(send(server, settings).result, DeliveryUnconfirmed)
        assert entry().deliveries[0].status is DeliveryStatus.IN_DOUBT
        server.script |= {"rcpt": "250 ok", "dot": "250 ok"}
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1


def test_a_message_too_large_to_be_kept_is_held(settings: Any, monkeypatch: Any) -> None:
    """A ledger is no mail store; such a message goes out all the same."""
    monkeypatch.setattr(ProviderKey, "longest_content", 100)
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert is_held(send(server, settings).result)
    assert entry().sealed == ""


def test_a_forgotten_ledger_makes_the_same_key(silent: KeyedSMTP, memory_ledger: Any) -> None:
    """What the ledger has lost, the provider still recognises: other content is refused, so nobody gets two."""
    run()
    memory_ledger.store.clear()
    silent.script["dot"] = "250 ok"
    assert run().state == "FAILURE"
    assert len(silent.accepted) == 1
    assert len(set(silent.keys)) == 1


def test_a_body_that_sends_nothing_now_is_no_success(silent: KeyedSMTP) -> None:
    """P2: what is in doubt stays that, and the task says so."""
    run()
    assert isinstance(confirm.apply((1, [])).result, DeliveryInDoubt)
    assert entry().status is Status.IN_DOUBT
    silent.script["dot"] = "250 ok"
    assert run().get() == "sent 1"
