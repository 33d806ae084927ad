"""The hand-over against a scripted server: what is definite is definite, and silence is doubt."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage, EmailMultiAlternatives, send_mail, send_mass_mail

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, Status
from celery_idempotent.ledger.status import DeliveryStatus
from tests.support.mailserver import DROP, DROP_AFTER_ACCEPT, ScriptedSMTP, by_name

app = Celery("mail-tests", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="confirmation", max_retries=0)
def confirm(order: int, to: list[str]) -> str:
    EmailMessage("Your order", f"Order {order}\n.a line with a dot\n", to=to).send()
    return f"sent {order}"


def send(
    server: ScriptedSMTP, settings: Any, order: int = 1, to: tuple[str, ...] = ("ann@example.com",)
) -> Any:
    settings.EMAIL_PORT = server.port
    return confirm.apply((order, list(to)))


def entry(order: int = 1) -> Any:
    return confirm.entry_for(order, [])


def test_one_message_is_accepted_and_replayed(settings: Any) -> None:
    """P1, P3: the second task id gets the first one's result, and the server one copy."""
    with ScriptedSMTP() as server:
        assert send(server, settings).get() == "sent 1"
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1
    assert b"\r\n.a line with a dot" in server.accepted[0].data
    assert entry().status is Status.SENT
    assert entry().arrivals == 2


DEFINITE = {
    "banner refused": {"banner": "554 no"},
    "banner dropped": {"banner": DROP},
    "ehlo refused": {"ehlo": "550 no"},
    "ehlo dropped": {"ehlo": DROP},
    "mail deferred": {"mail": "451 later"},
    "mail refused": {"mail": "550 no"},
    "mail dropped": {"mail": DROP},
    "mail 421": {"mail": "421 closing"},
    "rcpt deferred": {"rcpt": "450 later"},
    "rcpt dropped": {"rcpt": DROP},
    "rcpt 421": {"rcpt": "421 closing"},
    "rcpt nonsense": {"rcpt": "299 what"},
    "data deferred": {"data": "451 later"},
    "data dropped": {"data": DROP},
    "data 421": {"data": "421 closing"},
    "data nonsense": {"data": "250 what"},
    "dot deferred": {"dot": "451 later"},
    "dot 421": {"dot": "421 closing"},
}


@pytest.mark.parametrize("script", DEFINITE.values(), ids=DEFINITE.keys())
def test_a_definite_refusal_leaves_the_key_usable(script: dict[str, str], settings: Any) -> None:
    """P2: after a refusal at any step the next task sends, at once and exactly once."""
    with ScriptedSMTP(**script) as server:
        assert send(server, settings).state == "FAILURE"
        assert not server.accepted
        assert entry().status is Status.FAILED
    with ScriptedSMTP() as server:
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1


@pytest.mark.parametrize("step", ["rcpt", "data", "dot"])
def test_a_permanent_refusal_is_never_offered_again(step: str, settings: Any) -> None:
    """A 5xx for the recipient stands for the whole generation."""
    with ScriptedSMTP(**{step: "550 5.1.1 no such user"}) as server:
        assert "RecipientsRefused" in type(send(server, settings).result).__name__
    with ScriptedSMTP() as server:
        assert send(server, settings).state == "FAILURE"
    assert server.connections == 0
    assert entry().deliveries[0].code == 550


@pytest.mark.parametrize("dot", [DROP, DROP_AFTER_ACCEPT, "garbage", "199 what"])
def test_silence_after_the_dot_is_doubt(dot: str, settings: Any) -> None:
    """P1: without a reply that can be understood, nothing is offered again under "hold"."""
    with ScriptedSMTP(dot=dot) as server:
        assert isinstance(send(server, settings).result, DeliveryInDoubt)
    assert entry().status is Status.IN_DOUBT
    with ScriptedSMTP() as again:
        assert isinstance(send(again, settings).result, DeliveryInDoubt)
    assert again.connections == 0
    assert len(server.accepted) == (1 if dot == DROP_AFTER_ACCEPT else 0)


def test_a_payload_that_is_cut_before_its_dot_is_definite(settings: Any) -> None:
    """RFC 5321 §4.1.1.4: without the final dot there is no mail, so the next attempt may send."""
    big = "x" * 70 + "\n"

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="big")
    def bulky(n: int) -> None:
        EmailMessage("Big", big * 200_000, to=["ann@example.com"]).send()

    with ScriptedSMTP(payload_limit=1000) as server:
        settings.EMAIL_PORT = server.port
        assert bulky.apply((1,)).state == "FAILURE"
    assert server.partial
    assert bulky.entry_for(1).deliveries[0].status is DeliveryStatus.DEFERRED


def test_a_slow_reply_is_doubt_once_the_deadline_has_passed(settings: Any, monkeypatch: Any) -> None:
    """The hand-over has a deadline of its own; the reply that comes later proves nothing any more."""
    monkeypatch.setattr(confirm, "send_timeout", 1.0)
    with ScriptedSMTP() as server:
        server.hold("dot")
        assert isinstance(send(server, settings).result, DeliveryInDoubt)


def test_a_deferred_recipient_is_served_alone_by_the_retry(settings: Any) -> None:
    """Accepted recipients are not offered the mail again; Message-ID and Date stay."""
    people = ("ann@example.com", "bob@example.com")
    with ScriptedSMTP(rcpt=by_name(bob="450 4.7.1 <bob@example.com> come back")) as first:
        assert send(first, settings, to=people).state == "FAILURE"
    with ScriptedSMTP() as second:
        assert send(second, settings, to=people).get() == "sent 1"
    assert first.accepted[0].recipients == ["ann@example.com"]
    assert second.accepted[0].recipients == ["bob@example.com"]
    assert first.accepted[0].message_id == second.accepted[0].message_id
    assert first.accepted[0].headers["Date"] == second.accepted[0].headers["Date"]
    assert first.accepted[0].headers["To"] == second.accepted[0].headers["To"]
    assert "bob@" not in entry().deliveries[1].detail


def test_resend_offers_a_doubtful_mail_again(settings: Any, monkeypatch: Any) -> None:
    """``in_doubt="resend"`` is the explicit choice of a possible second copy, under one Message-ID."""
    monkeypatch.setattr(confirm, "in_doubt", "resend")
    with ScriptedSMTP(dot=DROP_AFTER_ACCEPT) as first:
        assert send(first, settings).state == "FAILURE"
    with ScriptedSMTP() as second:
        assert send(second, settings).get() == "sent 1"
    assert first.accepted[0].message_id == second.accepted[0].message_id


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="several")
def several(n: int, fail_after: int = 9) -> int:
    send_mail("One", "text", None, ["ann@example.com"])
    if fail_after == 1:
        raise ValueError("after the first")
    message = EmailMultiAlternatives("Two", "text", to=["Ann <ann@example.com>"], bcc=["boss@example.com"])
    message.attach_alternative("<p>text</p>", "text/html")
    message.attach("a.txt", "attached", "text/plain")
    message.send()
    return send_mass_mail([("Three", "t", None, ["bob@example.com"]), ("Four", "t", None, ["eve@example.com"])])


def test_a_body_that_runs_again_sends_only_what_is_missing(settings: Any) -> None:
    """Several messages in one body: each is told apart, also those to the same person."""
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert several.apply((1, 1)).state == "FAILURE"
        assert several.apply((1,)).get() == 2
    subjects = [received.headers["Subject"] for received in server.accepted]
    assert subjects == ["One", "Two", "Three", "Four"]
    assert len({received.message_id for received in server.accepted}) == 4
    assert server.accepted[1].recipients == ["ann@example.com", "boss@example.com"]
    assert server.accepted[1].headers["Bcc"] is None


def test_a_swallowed_doubt_does_not_become_success(settings: Any) -> None:
    """A bare except keeps the body going, not the lie; nor may it send anything more."""

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="swallowing")
    def swallowing(n: int) -> str:
        for _ in range(2):
            try:
                EmailMessage("Hi", "text", to=["ann@example.com"]).send()
            except Exception:
                continue
        return "fine"

    with ScriptedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(swallowing.apply((1,)).result, DeliveryInDoubt)
    assert len(server.accepted) == 1
    assert swallowing.entry_for(1).status is Status.IN_DOUBT


def test_outside_a_task_mail_passes_through(settings: Any) -> None:
    """The backend is the project's, too."""
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert send_mail("Hi", "text", None, ["ann@example.com"]) == 1
    assert len(server.accepted) == 1
