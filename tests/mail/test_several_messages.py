"""Bodies that send more than once: each message counts for itself, and none goes out twice."""

from __future__ import annotations

import logging
import smtplib
from typing import Any

import django
import pytest
from django.core.mail import get_connection, send_mail, send_mass_mail
from django.utils.log import AdminEmailHandler

from celery_idempotent import RecipientsRefused
from tests.mail.bodies import message, run, task
from tests.support.mailserver import ScriptedSMTP, by_name


def test_a_body_that_tries_again_by_itself_sends_one_message(settings: Any) -> None:
    """Sent again before it was accepted it is the same message, also for the retry of the whole task."""

    @task("loop", bind=True, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
    def loop(self: Any, n: int) -> None:
        for _ in range(3):
            try:
                send_mail("Hi", "text", None, ["ann@example.com"])
                break
            except smtplib.SMTPException:
                continue
        if not self.request.retries:
            raise ValueError("after acceptance")

    with ScriptedSMTP(rcpt=["450 later", "250 ok"]) as server:
        assert run(server, settings, loop).state == "SUCCESS"
    assert len(server.accepted) == 1


@pytest.mark.parametrize("refusal", ["450 later", "550 no"])
def test_a_partly_accepted_message_that_the_body_sends_again(settings: Any, refusal: str) -> None:
    """P1: who has it is not offered it again, whatever became of the others."""

    @task(f"partly-{refusal[:3]}")
    def partly(n: int) -> None:
        for _ in range(2):
            try:
                message("ann@example.com", "bob@example.com").send()
            except smtplib.SMTPException:
                continue

    bob = iter([refusal, "250 ok"])
    with ScriptedSMTP(rcpt=lambda line: next(bob) if "bob" in line else "250 ok") as server:
        assert run(server, settings, partly).state == "SUCCESS"
    served = [address for received in server.accepted for address in received.recipients]
    assert served.count("ann@example.com") == 1
    assert served.count("bob@example.com") == (1 if refusal.startswith("4") else 0)


def test_two_equal_messages_in_one_body_are_two(settings: Any) -> None:
    """Once accepted, the next one is another; a rerun sends neither again."""

    @task("twice", bind=True, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
    def twice(self: Any, n: int) -> None:
        message().send()
        message().send()
        if not self.request.retries:
            raise ValueError("after acceptance")

    with ScriptedSMTP() as server:
        assert run(server, settings, twice).state == "SUCCESS"
    assert len(server.accepted) == 2


def test_one_refused_message_of_many_does_not_stop_the_others(settings: Any) -> None:
    """All are offered, then the error is raised; what a retry can mend comes first."""

    @task("mass")
    def mass(n: int) -> None:
        names = ("gone", "busy", "bob")
        send_mass_mail([("Hi", "text", None, [f"{name}@example.com"]) for name in names])

    with ScriptedSMTP(rcpt=by_name(gone="550 no", busy="450 later")) as server:
        assert type(run(server, settings, mass).result).__name__ == "RecipientsDeferred"
    assert [received.recipients for received in server.accepted] == [["bob@example.com"]]
    with ScriptedSMTP() as server:
        assert type(run(server, settings, mass).result).__name__ == "RecipientsRefused"
    assert [received.recipients for received in server.accepted] == [["busy@example.com"]]


def test_a_connection_kept_open_outlives_a_refusal(settings: Any) -> None:
    """It was dropped, so the next message opens another one."""

    @task("kept-open")
    def kept(n: int) -> None:
        with get_connection() as connection:
            for to in ("a@example.com", "b@example.com"):
                try:
                    message(to, connection=connection).send()
                except RecipientsRefused:
                    continue

    with ScriptedSMTP(dot=["550 spam", "250 ok"]) as server:
        assert run(server, settings, kept).state == "SUCCESS"
    assert [received.recipients for received in server.accepted] == [["b@example.com"]]


def test_a_log_handlers_mail_to_the_admins_is_no_part_of_the_email(settings: Any) -> None:
    """It reports on the task; that it is refused does not fail what the customer has got."""
    ops = "ops@example.com"
    settings.ADMINS = [ops] if django.VERSION >= (6,) else [("ops", ops)]
    logger, handler = logging.getLogger("shop.bodies"), AdminEmailHandler()
    logger.addHandler(handler)

    @task("reporting-to-admins")
    def reporting(n: int) -> str:
        message().send()
        logger.error("the template is missing, used the fallback")
        return "ok"

    try:
        with ScriptedSMTP(rcpt=by_name(ops="550 no")) as server:
            assert run(server, settings, reporting).get() == "ok"
    finally:
        logger.removeHandler(handler)
    assert len(reporting.entry_for(1).deliveries) == 1
    assert server.count("rcpt") == 2
