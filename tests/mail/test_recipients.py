"""Recipient by recipient: what is recorded, what is shown, and what each one is offered."""

from __future__ import annotations

import logging
from smtplib import SMTPException
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask, RecipientsDeferred, RecipientsRefused, Status
from tests.mail.addressing import app, rows, run, send
from tests.support.mailserver import DROP, ScriptedSMTP, by_name


def test_each_recipient_has_its_own_code_and_text(settings: Any) -> None:
    """Django throws this away; the ledger keeps it one by one."""
    refusals = {"gone": "550 5.1.1 <gone@example.com> unknown", "busy": "450 4.2.1 busy"}
    with ScriptedSMTP(rcpt=by_name(**refusals), dot="250 2.0.0 queued as 4711") as server:
        error = run(server, settings, ["ann@example.com", "gone@example.com", "busy@example.com"]).result
    assert sorted(rows()) == [
        ("a***@example.com", "accepted", 250, "2.0.0 queued as 4711"),
        ("b***@example.com", "deferred", 450, "4.2.1 busy"),
        ("g***@example.com", "refused", 550, "5.1.1 <g***@example.com> unknown"),
    ]
    assert isinstance(error, RecipientsDeferred)
    assert "b***@example.com (450 4.2.1 busy)" in str(error)


def test_refused_is_raised_once_all_else_is_settled(settings: Any) -> None:
    """First what a retry can mend, then what nothing can; the refused one is never offered again."""
    people = ["ann@example.com", "gone@example.com", "busy@example.com"]
    with ScriptedSMTP(rcpt=by_name(gone="550 no", busy="450 later")) as first:
        assert isinstance(run(first, settings, people).result, RecipientsDeferred)
    with ScriptedSMTP() as second:
        assert isinstance(run(second, settings, people).result, RecipientsRefused)
        assert isinstance(run(second, settings, people).result, RecipientsRefused)
    assert [received.recipients for received in second.accepted] == [["busy@example.com"]]
    assert not any("gone" in command or "ann" in command for command in second.commands)


def test_autoretry_serves_the_deferred_alone(settings: Any) -> None:
    """`RecipientsDeferred` is an `SMTPException`, and its retry starts where the first run ended."""

    @app.task(
        base=IdempotentEmailTask,
        key_fields=("n",),
        name="autoretry",
        autoretry_for=(SMTPException,),
        default_retry_delay=0,
    )
    def autoretry(n: int) -> None:
        EmailMessage("Hi", "text", to=["ann@example.com"], cc=["busy@example.com"]).send()

    answers = iter(["450 later", "450 later"])
    with ScriptedSMTP(rcpt=lambda line: next(answers, "250 ok") if "busy" in line else "250 ok") as server:
        settings.EMAIL_PORT = server.port
        assert autoretry.apply((1,)).state == "SUCCESS"
    assert [received.recipients for received in server.accepted] == [["ann@example.com"], ["busy@example.com"]]
    assert len({(r.message_id, r.headers["To"], r.headers["Cc"]) for r in server.accepted}) == 1


@pytest.mark.parametrize(
    ("replies", "wait"),
    [
        ({"ann": "450 4.7.1 Greylisted, try again in 120 seconds"}, 120),
        ({"ann": "450 4.7.1 come back in 00:02:00", "bob": "451 4.7.1 come back in 00:10:00"}, 600),
        ({"ann": "450 4.2.1 busy"}, None),
        ({"ann": "450 4.2.1 busy", "bob": "450 Greylisted"}, 300),
    ],
)
def test_the_error_says_when_a_retry_is_worth_while(
    settings: Any, replies: dict[str, str], wait: float | None
) -> None:
    """The longest that any server asks for: earlier, that one would refuse again."""
    with ScriptedSMTP(rcpt=by_name(**replies)) as server:
        error = run(server, settings, ["ann@example.com", "bob@example.com"]).result
    assert error.retry_after == wait


@pytest.mark.parametrize("step", ["mail", "data", "dot"])
def test_greylisting_at_other_steps(settings: Any, step: str) -> None:
    """Some servers refuse MAIL, or DATA, or the payload."""
    with ScriptedSMTP(**{step: "451 4.7.1 Greylisted, try again in 120 seconds"}) as server:
        error = run(server, settings, ["ann@example.com"]).result
    assert (type(error), error.retry_after) == (RecipientsDeferred, 120)
    assert rows()[0][1:3] == ("deferred", 451)


def test_refusals_known_before_the_connection_ends_are_kept(settings: Any) -> None:
    """A disconnect at a later RCPT does not lose them: the refused one is not offered again."""
    people = ["gone@example.com", "ann@example.com", "bob@example.com"]
    with ScriptedSMTP(rcpt=by_name(gone="550 5.1.1 no", bob=DROP)) as first:
        assert isinstance(run(first, settings, people).result, RecipientsDeferred)
    assert [status for _, status, _, _ in rows()] == ["refused", "deferred", "deferred"]
    with ScriptedSMTP() as second:
        assert isinstance(run(second, settings, people).result, RecipientsRefused)
    assert [received.recipients for received in second.accepted] == [["ann@example.com", "bob@example.com"]]


@pytest.mark.parametrize("form", ["masked", "plain", "digest"])
def test_a_blind_copy_stays_blind(settings: Any, caplog: Any, form: str) -> None:
    """In headers, in what the ledger shows, in logs and in errors, whatever the ledger may show."""
    caplog.set_level(logging.DEBUG)
    settings.CELERY_IDEMPOTENT |= {"RECIPIENTS": form}
    refusals = {"boss": "450 4.2.1 <secret.boss@example.com> busy", "gone": "550 <secret.gone@example.com>"}
    with ScriptedSMTP(rcpt=by_name(**refusals)) as server:
        blind = ["secret.boss@example.com", "secret.gone@example.com", "secret.ok@example.com"]
        error = run(server, settings, ["ann@example.com"], [], blind).result
    assert isinstance(error, RecipientsDeferred)
    assert sorted(status for _, status, _, _ in rows()) == ["accepted", "accepted", "deferred", "refused"]
    assert server.accepted[0].recipients == ["ann@example.com", "secret.ok@example.com"]
    assert b"secret" not in server.accepted[0].data
    assert "secret" not in str(error) + repr(error) + caplog.text
    if form != "plain":
        assert "secret" not in str(rows())
    if form == "digest":
        assert "example.com" not in str(rows())


def test_a_bcc_header_of_the_projects_own_does_not_go_out(settings: Any) -> None:
    """Django 5 would send it; Django 6 refuses it itself."""
    with ScriptedSMTP() as server:
        run(server, settings, ["ann@example.com"], headers={"Bcc": "secret@example.com"})
    assert django.VERSION >= (6,) or len(server.accepted) == 1
    assert not any(b"secret" in received.data for received in server.accepted)


def test_a_refused_sender_is_no_refusal_of_the_recipients(settings: Any) -> None:
    """It is the project's own address that has to be mended; then the key is free."""
    with ScriptedSMTP(mail="550 5.7.1 <shop@example.com> may not") as server:
        error = run(server, settings, ["ann@example.com"]).result
    assert type(error).__name__ == "SMTPSenderRefused"
    assert (send.entry_for(1, []).status, rows()) == (Status.FAILED, [])
    with ScriptedSMTP() as server:
        assert run(server, settings, ["ann@example.com"]).get() == "sent"
