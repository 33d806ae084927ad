"""Bodies that catch the error of a mail and go on: mail that somebody is owed does not end as sent."""

from __future__ import annotations

import itertools
import smtplib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import IdempotentEmailTask, RecipientsDeferred, RecipientsRefused, Status
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.mail.transaction import Transaction
from tests.support.mailserver import ScriptedSMTP

app = Celery("swallowed", broker="memory://", backend="cache+memory://", set_as_current=False)
names = itertools.count()
LATER, NO = "450 4.2.0 later", "550 5.1.1 no"


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger."""


def task(**options: Any) -> Callable[[Any], Any]:
    named = {"base": IdempotentEmailTask, "key_fields": ("n",), "name": f"swallowing-{next(names)}"}
    return app.task(**named, **options)


def quietly(*to: str, connection: Any = None, **more: Any) -> None:
    """Send, and swallow whatever comes."""
    people = list(to or ["ann@example.com"])
    try:
        EmailMessage("Hi", "text", to=people, connection=connection, **more).send()
    except Exception:
        return


def by_name(**answers: str) -> Any:
    return lambda line: next((answer for name, answer in answers.items() if f"<{name}" in line), "250 ok")


def quiet_task(**options: Any) -> Any:
    @task(**options)
    def quiet(n: int, *to: str) -> str:
        quietly(*to)
        return "done"

    return quiet


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


# -- settled later in the same body --------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["refused connection", LATER, "421 busy"])
@pytest.mark.parametrize("sender", [None, "other@example.com"])
def test_a_fallback_of_the_bodys_own(settings: Any, first: str, sender: str | None) -> None:
    """Another server takes it, from another sender too: SENT, one copy, nothing to try again."""

    @task()
    def falling_back(n: int) -> str:
        quietly()
        quietly(connection=get_connection(port=reserve.port), from_email=sender)
        return "done"

    script = {"banner": first} if first.startswith("421") else {"rcpt": first}
    with ScriptedSMTP(**script) as server, ScriptedSMTP() as reserve:
        settings.EMAIL_PORT = 1 if first.startswith("refused") else server.port
        assert falling_back.apply((1,)).get() == "done"
        assert falling_back.apply((1,)).get() == "done"
    assert (len(server.accepted), len(reserve.accepted)) == (0, 1)
    entry = falling_back.entry_for(1)
    assert [d.status for d in entry.deliveries] == [DeliveryStatus.ACCEPTED]


def test_sent_again_by_the_body_itself(settings: Any) -> None:
    """The second try served who was left over."""

    @task()
    def twice(n: int) -> str:
        for _ in range(2):
            quietly("ann@example.com", "bob@example.com")
        return "done"

    answers = iter([LATER])
    with ScriptedSMTP(rcpt=lambda line: next(answers, "250 ok") if "bob" in line else "250 ok") as server:
        settings.EMAIL_PORT = server.port
        assert twice.apply((1,)).get() == "done"
    assert [received.recipients for received in server.accepted] == [["ann@example.com"], ["bob@example.com"]]


def test_another_message_to_the_same_person_settles_nothing(settings: Any) -> None:
    """An invoice is no order confirmation."""

    @task()
    def two(n: int) -> None:
        for subject in ("Your order", "Your invoice"):
            try:
                EmailMessage(subject, "text", to=["ann@example.com"]).send()
            except smtplib.SMTPException:
                continue

    with ScriptedSMTP(rcpt=[LATER, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(two.apply((1,)).result, RecipientsDeferred)
        assert two.apply((1,)).state == "SUCCESS"
    assert [str(received.headers["Subject"]) for received in server.accepted] == ["Your invoice", "Your order"]


@pytest.mark.parametrize("falls_back", [True, False])
def test_a_connection_that_the_body_cannot_open(settings: Any, falls_back: bool) -> None:
    """There is no message yet that it would be about; sending over another one makes it good."""

    @task()
    def opening(n: int) -> str:
        try:
            with get_connection(port=1) as connection:
                quietly(connection=connection)
        except OSError:
            if falls_back:
                quietly()
        return "done"

    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        result = opening.apply((1,))
    assert (result.state, len(server.accepted)) == (("SUCCESS", 1) if falls_back else ("FAILURE", 0))
    assert falls_back or isinstance(result.result, ConnectionRefusedError)


# -- ways to end -----------------------------------------------------------------------------------------------


def test_a_soft_time_limit_that_was_swallowed(settings: Any, monkeypatch: Any) -> None:
    """It struck before the payload: nothing went out, so it is not sent."""

    def strike(self: Transaction, *args: Any) -> Any:
        raise SoftTimeLimitExceeded

    quiet = quiet_task()
    with ScriptedSMTP() as server, monkeypatch.context() as patch:
        patch.setattr(Transaction, "_release", strike)
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


# -- the retries of Celery's own -----------------------------------------------------------------------------


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
