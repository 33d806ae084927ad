"""How a body ends that has swallowed an error: by a limit, Ignore, an error of its own, or Celery's retries."""

from __future__ import annotations

import smtplib
from typing import Any

import pytest
from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded
from django.core.mail import EmailMessage

from celery_idempotent import RecipientsDeferred, Status
from celery_idempotent.mail.smtp.transaction import Transaction
from tests.mail.swallowing import LATER, quiet_task, quietly, task
from tests.support.mailserver import ScriptedSMTP, by_name


def test_a_soft_time_limit_that_was_swallowed(settings: Any, monkeypatch: Any) -> None:
    """It struck before the payload: nothing went out, so it is not sent."""

    def strike(self: Transaction, *args: Any) -> Any:
        raise SoftTimeLimitExceeded

    quiet = quiet_task()
    with ScriptedSMTP() as server, monkeypatch.context() as patch:
        patch.setattr(Transaction, "send_payload", strike)
        settings.EMAIL_PORT = server.port
        assert isinstance(quiet.apply((1,)).result, SoftTimeLimitExceeded)
    assert quiet.entry_for(1).status is Status.FAILED


def test_ignore_makes_nothing_good(settings: Any) -> None:
    """Also where `Task.replace` ends the body so: nobody would offer that mail again."""

    @task()
    def ignoring(n: int) -> None:
        quietly("ann@example.com", "bob@example.com")
        raise Ignore

    with ScriptedSMTP(rcpt=by_name(bob=LATER)) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(ignoring.apply((1,)).result, RecipientsDeferred)
    assert ignoring.entry_for(1).status is Status.FAILED


def test_an_error_of_the_bodys_own_counts_more(settings: Any) -> None:
    """It fails visibly anyway, by the error that the body chose."""

    @task()
    def raising(n: int) -> None:
        quietly()
        raise KeyError("order")

    with ScriptedSMTP(rcpt=LATER) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(raising.apply((1,)).result, KeyError)


def test_a_direct_call_gets_the_error(settings: Any) -> None:
    """There is no queue that would try again."""
    quiet = quiet_task(autoretry_for=(smtplib.SMTPException,))
    with ScriptedSMTP(rcpt=LATER) as server:
        settings.EMAIL_PORT = server.port
        with pytest.raises(RecipientsDeferred):
            quiet(1)
    assert server.count("rcpt") == 1


def test_autoretry_sees_what_the_body_did_not_let_out(settings: Any) -> None:
    """As declared: how often, and as that error in the end."""
    options = {"autoretry_for": (smtplib.SMTPException,), "retry_kwargs": {"countdown": 0, "max_retries": 2}}
    quiet = quiet_task(**options)
    with ScriptedSMTP(rcpt=[LATER, LATER, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        assert quiet.apply((1,)).get() == "done"
        assert len(server.accepted) == 1
        server.script["rcpt"] = LATER
        assert isinstance(quiet.apply((2,)).result, RecipientsDeferred)
    assert server.count("rcpt") == 3 + 3
    assert quiet.entry_for(2).status is Status.FAILED


def test_what_is_not_to_be_retried_is_not(settings: Any) -> None:
    """``dont_autoretry_for`` counts as well."""
    dont = (RecipientsDeferred,)
    quiet = quiet_task(autoretry_for=(OSError,), dont_autoretry_for=dont, default_retry_delay=0)
    with ScriptedSMTP(rcpt=LATER) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(quiet.apply((1,)).result, RecipientsDeferred)
    assert server.count("rcpt") == 1


@pytest.mark.parametrize(("answer", "seconds"), [(LATER, 100), ("450 4.7.1 try again in 250 seconds", 250)])
def test_the_backoff_is_the_declared_one_or_what_the_server_asks_for(
    settings: Any, answer: str, seconds: int
) -> None:
    """By Celery's own reckoning; greylisting puts it off further."""
    quiet = quiet_task(autoretry_for=(OSError,), retry_backoff=100, retry_jitter=False)
    quiet.push_request(id="first", args=(1,), kwargs={}, called_directly=False, is_eager=True)
    try:
        with ScriptedSMTP(rcpt=answer) as server:
            settings.EMAIL_PORT = server.port
            quiet.before_start("first", (1,), {})
            with pytest.raises(Retry) as retry:
                quiet(1)
    finally:
        quiet.pop_request()
    assert retry.value.when == seconds
    assert quiet.entry_for(1).status is Status.RELEASED


def test_fail_silently_does_not_silence_a_task(settings: Any) -> None:
    """Where there is a task to try again, the error reaches Celery's autoretry like any other."""

    @task(autoretry_for=(smtplib.SMTPException,), retry_kwargs={"countdown": 0})
    def silent(n: int) -> None:
        EmailMessage("Hi", "text", to=["ann@example.com"]).send(fail_silently=True)

    with ScriptedSMTP(rcpt=[LATER, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        assert silent.apply((1,)).state == "SUCCESS"
    assert len(server.accepted) == 1
