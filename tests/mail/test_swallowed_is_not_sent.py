"""Bodies that catch the error of a mail and go on: mail that somebody is owed does not end as sent."""

from __future__ import annotations

import smtplib
from contextlib import suppress
from typing import Any

import pytest
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import RecipientsDeferred, RecipientsRefused, Status
from tests.mail.swallowing import LATER, NO, quiet_task, quietly, task
from tests.support.mailserver import ScriptedSMTP, by_name


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"rcpt": LATER}, RecipientsDeferred),
        ({"dot": LATER}, RecipientsDeferred),
        ({"banner": "421 busy"}, smtplib.SMTPConnectError),
        ({"banner": "554 not you"}, smtplib.SMTPConnectError),
        ({"mail": "550 5.7.1 not from you"}, smtplib.SMTPSenderRefused),
        ({"rcpt": NO}, RecipientsRefused),
    ],
)
def test_a_mail_that_nobody_got_is_not_sent(settings: Any, script: Any, error: type[Exception]) -> None:
    """P2: whether it may pass or not, the caller gets the error, and the entry says FAILED."""
    quiet = quiet_task()
    with ScriptedSMTP(**script) as server:
        settings.EMAIL_PORT = server.port
        result = quiet.apply((1,))
    assert (result.state, type(result.result)) == ("FAILURE", error)
    entry = quiet.entry_for(1)
    assert (entry.status, entry.error) == (Status.FAILED, error.__name__)


def test_a_server_that_is_not_there(settings: Any) -> None:
    """No hand-over at all, and nothing in the ledger to warn of; afterwards the key is free."""
    settings.EMAIL_PORT = 1
    quiet = quiet_task()
    assert isinstance(quiet.apply((1,)).result, ConnectionRefusedError)
    assert quiet.entry_for(1).deliveries == ()
    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert quiet.apply((1,)).get() == "done"
    assert len(server.accepted) == 1


def test_one_of_several_recipients(settings: Any) -> None:
    """Who was served stays so, the others are owed it: the next run offers it to them alone."""
    quiet = quiet_task()
    people = ["ann@example.com", "bob@example.com"]
    with ScriptedSMTP(rcpt=by_name(bob=LATER)) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(quiet.apply((1, *people)).result, RecipientsDeferred)
        server.script["rcpt"] = "250 ok"
        assert quiet.apply((1, *people)).get() == "done"
    assert [received.recipients for received in server.accepted] == [[person] for person in people]


def test_a_refusal_for_good_among_others_may_be_swallowed(settings: Any, caplog: Any) -> None:
    """No retry would mend it, and the body may know what to do about it: SENT, with a warning."""
    quiet = quiet_task()
    with ScriptedSMTP(rcpt=by_name(bob=NO)) as server:
        settings.EMAIL_PORT = server.port
        assert quiet.apply((1, "ann@example.com", "bob@example.com")).get() == "done"
    assert quiet.entry_for(1).status is Status.SENT
    assert "recipients that were not served" in caplog.text


@pytest.mark.parametrize("others", [True, False])
def test_a_message_that_cannot_be_written(settings: Any, caplog: Any, others: bool) -> None:
    """Like a refusal for good: among others it may be swallowed, alone it is the end."""

    @task()
    def quiet(n: int) -> str:
        quietly("bob@example.com", headers={"X-Order": "1\n2"})
        if others:
            quietly("ann@example.com")
        return "done"

    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        result = quiet.apply((1,))
    assert result.state == ("SUCCESS" if others else "FAILURE")
    assert quiet.entry_for(1).status is (Status.SENT if others else Status.FAILED)
    assert ("recipients that were not served" in caplog.text) is others


@pytest.mark.parametrize(
    ("to", "part"), [("\ud800@example.com", None), ("bob@example.com", "x" * 101)], ids=["address", "part"]
)
def test_a_message_that_the_ledger_cannot_name(settings: Any, to: str, part: str | None) -> None:
    """P2: a lone surrogate, or a part that no store can keep: swallowed alone, it is the end."""

    @task()
    def quiet(n: int) -> str:
        message = EmailMessage("Hi", "text", to=[to])
        message.idempotency_part = part
        with suppress(ValueError):
            message.send()
        return "done"

    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        result = quiet.apply((1,))
    assert isinstance(result.result, ValueError)
    assert quiet.entry_for(1).status is Status.FAILED


@pytest.mark.parametrize("script", [{}, {"rcpt": by_name(ann=LATER)}])
def test_the_messages_after_one_that_cannot_be_written(settings: Any, script: Any) -> None:
    """P2: of several in one call the others go out, and what may pass is raised before what may not."""
    raised = []

    @task()
    def several(n: int) -> str:
        messages = [EmailMessage("Hi", "text", to=[f"{name}@example.com"]) for name in ("ann", "bob", "cat")]
        messages[1].extra_headers["X-Order"] = "1\n2"
        try:
            get_connection().send_messages(messages)
        except Exception as error:
            raised.append(error)
        return "done"

    with ScriptedSMTP(**script) as server:
        settings.EMAIL_PORT = server.port
        several.apply((1,))
    served = ["cat@example.com"] if script else ["ann@example.com", "cat@example.com"]
    assert [address for received in server.accepted for address in received.recipients] == served
    assert isinstance(raised[0], RecipientsDeferred if script else ValueError)


def test_what_may_pass_goes_before_what_may_not(settings: Any) -> None:
    """Of several swallowed errors the one that a retry can mend counts, of these the longest wait."""

    @task()
    def quiet(n: int) -> None:
        for name in ("ann", "cat", "dan", "bob"):
            quietly(f"{name}@example.com")

    slow, slower = "450 4.7.1 try again in 120 seconds", "450 4.7.1 try again in 500 seconds"
    with ScriptedSMTP(rcpt=by_name(ann=slow, cat=slower, dan=LATER, bob=NO)) as server:
        settings.EMAIL_PORT = server.port
        error = quiet.apply((1,)).result
    assert (type(error), error.retry_after) == (RecipientsDeferred, 500)


def test_a_server_that_will_not_have_us_does_not_hide_what_may_pass(settings: Any) -> None:
    """The last error is one that no retry mends; the one before it is worth one."""

    @task()
    def quiet(n: int) -> None:
        quietly("ann@example.com")
        quietly("bob@example.com", connection=get_connection(port=strict.port))

    with ScriptedSMTP(rcpt=LATER) as server, ScriptedSMTP(banner="554 not you") as strict:
        settings.EMAIL_PORT = server.port
        assert isinstance(quiet.apply((1,)).result, RecipientsDeferred)
