"""Providers that recognise a message by a header of its own: a lost reply ends as sent, with one copy."""

from __future__ import annotations

import random
from dataclasses import replace
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from celery import Celery
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection

from celery_idempotent import (
    ClaimLost,
    DeliveryInDoubt,
    IdempotentEmailTask,
    RecipientsRefused,
    Status,
    Verdict,
)
from celery_idempotent.core.entry import After
from celery_idempotent.core.errors import DeliveryUnconfirmed
from celery_idempotent.core.interventions import Operator
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.mail import handover, providers, recognition
from celery_idempotent.mail.providers import Deduplication
from tests.support.mailserver import DROP, DROP_AFTER_ACCEPT, ScriptedSMTP
from tests.support.providers import KeyedSMTP

app = Celery("provider-keys", broker="memory://", backend="cache+memory://", set_as_current=False)
KEY = Fernet.generate_key().decode()


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="confirmation")
def confirm(order: int, to: list[str]) -> str:
    """Its content differs from run to run, as a rendered date or a MIME boundary does."""
    message = EmailMultiAlternatives("Your order", f"Order {order}, {random.random()}\n.dots\n", to=to)
    message.attach_alternative("<p>Your order</p>", "text/html")
    if to:
        message.send()
    return f"sent {order}"


@pytest.fixture(autouse=True)
def _keyed(memory_ledger: Any, tracked: None, settings: Any, monkeypatch: Any) -> None:
    """Resend by SMTP, with keys to keep content; tries follow each other at once."""
    configured(settings, PROVIDER="resend", ENCRYPTION_KEYS=[KEY])
    monkeypatch.setattr(handover, "PAUSES", (0.0, 0.0))


def configured(settings: Any, **changes: Any) -> None:
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, **changes}


def send(server: ScriptedSMTP, settings: Any, *to: str) -> Any:
    settings.EMAIL_PORT = server.port
    return confirm.apply((1, list(to or ["ann@example.com"])))


def entry() -> Any:
    return confirm.entry_for(1, [])


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


def test_a_message_that_never_arrived_is_sent_by_the_second_offer(settings: Any) -> None:
    """A lost connection looks the same whether the server took the mail or not; both end with one copy."""
    with KeyedSMTP(dot=[DROP, "250 ok"]) as server:
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1
    assert entry().attempts == 2


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="own-header")
def with_own_header(order: int, name: str) -> str:
    message = EmailMessage("Yours", f"{random.random()}", to=["ann@example.com"], headers={name: "my own key"})
    message.send()
    return str(message.extra_headers)


@pytest.mark.parametrize("name", ["Resend-Idempotency-Key", "RESEND-IDEMPOTENCY-KEY", "resend-idempotency-key"])
@pytest.mark.parametrize("keys", [True, False])
def test_a_projects_own_key_does_not_go_beside_the_ledgers(settings: Any, name: str, keys: bool) -> None:
    """P1: one header, of the key that the ledger knows and can offer again; without one, the project's."""
    configured(settings, ENCRYPTION_KEYS=[KEY] if keys else [])
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "250 ok"] if keys else "250 ok") as server:
        settings.EMAIL_PORT = server.port
        assert with_own_header.apply((1, name)).get() == str({name: "my own key"}), "the message is as it was"
    assert len(server.accepted) == 1
    went = server.accepted[0].headers.get_all("Resend-Idempotency-Key")
    assert len(went) == 1
    assert (went == ["my own key"]) is not keys
    assert len(set(server.keys)) == 1


def test_nothing_of_the_content_is_left(settings: Any, memory_ledger: Any) -> None:
    """P7: encrypted while it may be needed, and gone with the doubt."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings)
        kept = entry()
        assert kept.status is Status.IN_DOUBT
        assert kept.sealed
        for secret in ("Your order", "ann@example.com", "Order 1"):
            assert secret not in repr(kept)
        server.script["dot"] = "250 ok"
        assert send(server, settings).get() == "sent 1"
    assert entry().sealed == entry().provider_key == ""
    assert len(server.accepted) == 1


def test_tries_of_one_run_are_few_and_then_the_task_comes_back(settings: Any) -> None:
    """`DeliveryUnconfirmed` is a doubt that resolves itself; to an eager caller it is an error."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        assert isinstance(send(server, settings).result, DeliveryUnconfirmed)
    assert len(server.keys) == 1 + len(handover.PAUSES)
    assert len(server.accepted) == 1
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
        result = send(server, settings).result
        assert isinstance(result, DeliveryInDoubt)
        assert not isinstance(result, DeliveryUnconfirmed)
        assert len(server.keys) == 2
        server.script |= {"rcpt": "450 later"}
        assert isinstance(send(server, settings).result, DeliveryUnconfirmed)
        assert entry().deliveries[0].status is DeliveryStatus.IN_DOUBT
        server.script |= {"rcpt": "250 ok", "dot": "250 ok"}
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1


def test_without_encryption_keys_it_is_held_as_ever(settings: Any) -> None:
    """What cannot be kept cannot be offered again; no key goes out that would promise it."""
    configured(settings, ENCRYPTION_KEYS=[])
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        result = send(server, settings).result
    assert isinstance(result, DeliveryInDoubt)
    assert not isinstance(result, DeliveryUnconfirmed)
    assert server.keys == [None]
    assert entry().status is Status.IN_DOUBT


def test_without_a_provider_no_header_goes_out(settings: Any) -> None:
    """Off unless asked for."""
    configured(settings, PROVIDER=None)
    with KeyedSMTP() as server:
        assert send(server, settings).get() == "sent 1"
    assert server.keys == [None]


def test_a_key_that_was_taken_away_holds(settings: Any) -> None:
    """P1: content that nobody can open any more is not rendered anew under the same key."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings)
        offered = len(server.keys)
        configured(settings, ENCRYPTION_KEYS=[Fernet.generate_key().decode()])
        result = send(server, settings).result
        assert isinstance(result, DeliveryInDoubt)
        assert not isinstance(result, DeliveryUnconfirmed)
        assert len(server.keys) == offered
        configured(settings, ENCRYPTION_KEYS=[Fernet.generate_key().decode(), KEY])
        server.script["dot"] = "250 ok"
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1


@pytest.mark.parametrize(
    "change", [{"EMAIL_HOST_USER": "other"}, {"PROVIDER": "lettermint"}, {"PROVIDER": None}]
)
def test_another_account_is_not_offered_it(settings: Any, change: dict[str, Any]) -> None:
    """P1: only whoever got the key can recognise it. Lettermint would look for another header."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings)
        offered = len(server.keys)
        if "PROVIDER" in change:
            configured(settings, **change)
        else:
            settings.EMAIL_HOST_USER = change["EMAIL_HOST_USER"]
        assert isinstance(send(server, settings).result, DeliveryInDoubt)
    assert len(server.keys) == offered
    assert entry().status is Status.IN_DOUBT


VERDICTS: list[Verdict] = []


@app.task(
    base=IdempotentEmailTask, key_fields=("order",), email_type="resent", max_retries=0, in_doubt="resend"
)
def resent(order: int, to: list[str]) -> str:
    EmailMessage("Your order", f"Order {order}, {random.random()}", to=to).send()
    return "sent"


@app.task(
    base=IdempotentEmailTask,
    key_fields=("order",),
    email_type="asked-about",
    max_retries=0,
    in_doubt=lambda entry: VERDICTS[-1],
)
def asked_about(order: int, to: list[str]) -> str:
    EmailMessage("Your order", f"Order {order}, {random.random()}", to=to).send()
    return "sent"


def keys_lost(settings: Any, server: Any) -> None:
    configured(settings, ENCRYPTION_KEYS=[Fernet.generate_key().decode()])


def provider_removed(settings: Any, server: Any) -> None:
    configured(settings, PROVIDER=None)


def other_account(settings: Any, server: Any) -> None:
    settings.EMAIL_HOST_USER = "other"


def refused_for_good(settings: Any, server: Any) -> None:
    """The provider says that it had other content under this key, and says so each time."""
    server.known = dict.fromkeys(server.known, b"other content")


LOSSES = [keys_lost, provider_removed, other_account, refused_for_good]


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("task", [resent, asked_about])
def test_a_key_that_cannot_be_offered_any_more_leaves_the_choice_to_the_task(
    settings: Any, lose: Any, task: Any
) -> None:
    """P2: a task that rather sends twice than not at all does not wait for the end of the provider's time."""
    VERDICTS[:] = [Verdict.NOT_SENT]
    people = ["ann@example.com", "bob@example.com"]
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(task.apply((1, people)).result, DeliveryUnconfirmed)
        server.script["dot"] = "250 ok"
        lose(settings, server)
        error = task.apply((1, people)).result
        assert isinstance(error, SMTPServerDisconnected)
        assert not isinstance(error, DeliveryInDoubt), "a task with retries tries it again"
        kept = task.entry_for(1, people)
        assert (kept.status, kept.provider_key, kept.sealed) == (Status.IN_DOUBT, "", "")
        assert len(server.accepted) == 1, "nothing was offered without the key by the run that had it"
        assert task.apply((1, people)).get() == "sent"
    assert [sorted(received.recipients) for received in server.accepted] == [people, people]
    kept = task.entry_for(1, people)
    assert (kept.status, {d.status for d in kept.deliveries}) == (Status.SENT, {DeliveryStatus.ACCEPTED})


@pytest.mark.parametrize("lose", LOSSES)
def test_a_key_that_cannot_be_offered_any_more_is_kept_by_hold(settings: Any, lose: Any) -> None:
    """P1: it may come back, and until then nobody gets a second copy."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings)
        server.script["dot"] = "250 ok"
        lose(settings, server)
        for _ in range(2):
            result = send(server, settings).result
            assert isinstance(result, DeliveryInDoubt)
            assert not isinstance(result, DeliveryUnconfirmed)
        assert entry().status is Status.IN_DOUBT
        assert entry().provider_key
        assert entry().sealed
    assert len(server.accepted) == 1


def test_a_verifier_that_does_not_know_holds_what_cannot_be_offered(settings: Any) -> None:
    """P1: "unknown" is no leave for a second copy. What it finds out later counts."""
    VERDICTS[:] = [Verdict.UNKNOWN]
    people = ["ann@example.com"]
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        asked_about.apply((1, people))
        server.script["dot"] = "250 ok"
        keys_lost(settings, server)
        asked_about.apply((1, people))
        assert isinstance(asked_about.apply((1, people)).result, DeliveryInDoubt)
        assert asked_about.entry_for(1, people).status is Status.IN_DOUBT
        VERDICTS.append(Verdict.SENT)
        assert asked_about.apply((1, people)).get() == "sent"
    assert len(server.accepted) == 1


def test_a_resend_to_others_than_those_in_doubt(settings: Any) -> None:
    """P2: the doubt about Ann and Bob cannot end under their key when the body addresses Ann alone now."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        resent.apply((1, ["ann@example.com", "bob@example.com"]))
        server.script["dot"] = "250 ok"
        assert isinstance(resent.apply((1, ["ann@example.com"])).result, SMTPServerDisconnected)
        assert resent.apply((1, ["ann@example.com"])).get() == "sent"
    assert [received.recipients for received in server.accepted][1:] == [["ann@example.com"]]


def test_a_decision_meanwhile_is_not_overwritten(settings: Any, monkeypatch: Any, memory_ledger: Any) -> None:
    """P1: settled while the run finds that it has no key: it stops, and the doubt has ended as sent."""
    people = ["ann@example.com"]
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        resent.apply((1, people))
        server.script["dot"] = "250 ok"
        keys_lost(settings, server)
        close = Ledger.close_offer

        def proven_first(self: Any, found: Any) -> Any:
            self.store.swap(replace(found, deadline=After(-1)), found.version)
            stored = self.store.get(found.key)
            Operator(self.store, "ann", "it is there").resolve(stored.entry, Verdict.SENT)
            return close(self, found)

        monkeypatch.setattr(Ledger, "close_offer", proven_first)
        assert isinstance(resent.apply((1, people)).result, ClaimLost)
        assert resent.entry_for(1, people).status is Status.SENT
        assert resent.apply((1, people)).get() is None
    assert len(server.accepted) == 1


@pytest.mark.parametrize("task", [confirm, resent])
def test_one_who_is_refused_does_not_end_the_doubt_about_another(settings: Any, task: Any) -> None:
    """P1, P2: Bob is refused by name; Ann's doubt is not answered by that, and ends by offering it again."""

    def no_bob(line: str) -> str:
        return "550 5.1.1 nobody" if "bob" in line else "250 ok"

    with KeyedSMTP(rcpt=no_bob, dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        result = task.apply((1, ["ann@example.com", "bob@example.com"])).result
        assert isinstance(result, RecipientsRefused)
    assert [received.recipients for received in server.accepted] == [["ann@example.com"]]
    assert len(set(server.keys)) == 1
    assert {d.status for d in task.entry_for(1, []).deliveries} == {
        DeliveryStatus.ACCEPTED,
        DeliveryStatus.REFUSED,
    }


def test_one_who_is_refused_by_the_second_offer_does_not_end_it_for_another(settings: Any) -> None:
    """P2: no final word about Ann, whose reply is lost once more; the third offer gets it."""
    people = ["ann@example.com", "bob@example.com"]
    rcpt = ["250 ok", "250 ok", *["250 ok", "550 5.1.1 nobody"] * 2]
    with KeyedSMTP(rcpt=rcpt, dot=[DROP_AFTER_ACCEPT, DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert isinstance(send(server, settings, *people).result, DeliveryInDoubt)
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


def test_a_deferred_recipient_gets_a_message_of_its_own(settings: Any) -> None:
    """P2: under the key of the others the provider would take it for what it has, and Bob got nothing."""

    def greylist(line: str) -> str:
        return "450 4.7.1 come back" if "bob" in line else "250 ok"

    with KeyedSMTP(rcpt=greylist) as server:
        send(server, settings, "ann@example.com", "bob@example.com")
        server.script["rcpt"] = "250 ok"
        assert send(server, settings, "ann@example.com", "bob@example.com").get() == "sent 1"
    assert [received.recipients for received in server.accepted] == [["ann@example.com"], ["bob@example.com"]]
    assert len(set(server.keys)) == 2


def test_a_doubt_and_a_deferral_in_one_message(settings: Any) -> None:
    """What is in doubt is offered again alone; whoever was deferred comes after it, under another key."""

    def greylist(line: str) -> str:
        return "450 4.7.1 come back" if "bob" in line else "250 ok"

    with KeyedSMTP(rcpt=greylist, dot=[*[DROP_AFTER_ACCEPT] * 3, "250 ok"]) as server:
        send(server, settings, "ann@example.com", "bob@example.com")
        server.script["rcpt"] = "250 ok"
        assert send(server, settings, "ann@example.com", "bob@example.com").get() == "sent 1"
    assert [received.recipients for received in server.accepted] == [["ann@example.com"], ["bob@example.com"]]
    assert len(server.keys) == 5


def test_a_server_that_takes_fewer_recipients_now(settings: Any) -> None:
    """P2: the rest is not offered under the same key, which would get it a yes and no mail."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings, "ann@example.com", "bob@example.com")
        offered = len(server.keys)
        server.script |= {"rcpt": ["250 ok", "452 too many recipients", "250 ok"], "dot": "250 ok"}
        server.forget_calls()
        assert isinstance(send(server, settings, "ann@example.com", "bob@example.com").result, DeliveryInDoubt)
    assert len(server.keys) == offered + 1
    assert [d.status for d in entry().deliveries] == [DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT]
    assert entry().status is Status.IN_DOUBT


def test_a_body_that_addresses_others_now_does_not_offer_it_again(settings: Any) -> None:
    """The doubt is about Ann and Bob; a message to Ann alone cannot settle it."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings, "ann@example.com", "bob@example.com")
        offered = len(server.keys)
        server.script["dot"] = "250 ok"
        assert isinstance(send(server, settings, "ann@example.com").result, DeliveryInDoubt)
        assert len(server.keys) == offered
        assert send(server, settings, "ann@example.com", "bob@example.com").get() == "sent 1"
    assert len(server.accepted) == 1


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="two-messages", max_retries=0)
def in_this_order(order: int, parts: str) -> str:
    for part in parts:
        message = EmailMessage("Yours", f"meant for {part}, {random.random()}", to=[f"{part}@example.com"])
        message.idempotency_part = part
        message.send()
    return "sent"


@pytest.mark.parametrize("reply", ["450 later", "550 no", "250 ok", DROP, DROP_AFTER_ACCEPT])
def test_a_doubt_is_never_settled_with_another_messages_content(settings: Any, reply: str) -> None:
    """P1: a body that runs again in another order hands over Bob's while Ann's is in doubt: hers is held."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        in_this_order.apply((1, "ab"))
        server.script["dot"] = reply
        in_this_order.apply((1, "ba"))
        server.script["dot"] = "250 ok"
        for _ in range(2):
            assert isinstance(in_this_order.apply((1, "ab")).result, DeliveryInDoubt)
    kept = in_this_order.entry_for(1, "")
    assert kept.deliveries[0].status is DeliveryStatus.IN_DOUBT
    assert kept.sealed == kept.provider_key == ""
    for received in server.accepted:
        (who,) = received.recipients
        assert f"meant for {who[0]}," in received.data.decode()
    assert len({received.recipients[0] for received in server.accepted}) == len(server.accepted)


def test_a_body_that_sends_nothing_now_is_no_success(settings: Any) -> None:
    """P2: what is in doubt stays that, and the task says so."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings)
        assert isinstance(confirm.apply((1, [])).result, DeliveryInDoubt)
        assert entry().status is Status.IN_DOUBT
        server.script["dot"] = "250 ok"
        assert send(server, settings).get() == "sent 1"


def test_a_message_too_large_to_be_kept_is_held(settings: Any, monkeypatch: Any) -> None:
    """A ledger is no mail store; such a message goes out all the same."""
    monkeypatch.setattr(recognition, "LONGEST_CONTENT", 100)
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        result = send(server, settings).result
    assert isinstance(result, DeliveryInDoubt)
    assert not isinstance(result, DeliveryUnconfirmed)
    assert entry().sealed == ""


def test_a_forgotten_ledger_makes_the_same_key(settings: Any, memory_ledger: Any) -> None:
    """What the ledger has lost, the provider still recognises: other content is refused, so nobody gets two."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        send(server, settings)
        memory_ledger.store._entries.clear()
        server.script["dot"] = "250 ok"
        assert send(server, settings).state == "FAILURE"
    assert len(server.accepted) == 1
    assert len(set(server.keys)) == 1


MINE = Deduplication("Mine", "X-Once", 3600.0)


@pytest.mark.parametrize("name", [f"{__name__}.MINE", "lettermint", "resend"])
def test_a_provider_is_named(settings: Any, name: str) -> None:
    """By its name, or by the path of one's own."""
    configured(settings, PROVIDER=name)
    header = providers.provider(name).header  # type: ignore[union-attr]
    with KeyedSMTP(header, dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1


def test_a_mailer_names_its_own_provider(settings: Any) -> None:
    """The option of a mailer wins; an empty one is none."""
    backend = "celery_idempotent.mail.EmailBackend"
    assert get_connection(backend, provider="lettermint")._provider is providers.LETTERMINT_SMTP
    assert get_connection(backend, provider="")._provider is None
    assert get_connection(backend)._provider is providers.RESEND_SMTP


@pytest.mark.parametrize("name", ["nobody", "tests.nowhere.X", "tests.mail.test_provider_keys_smtp.KEY"])
def test_a_provider_that_is_none_is_an_error(settings: Any, name: str) -> None:
    """The message names the setting and what it can be."""
    configured(settings, PROVIDER=name)
    with pytest.raises(ImproperlyConfigured, match=r"PROVIDER.*'resend'"):
        get_connection("celery_idempotent.mail.EmailBackend")
