"""A provider that misuses codes: the project's own reading of a reply goes before the table."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, RecipientsDeferred, RecipientsRefused
from celery_idempotent.mail.delivery_errors import is_temporary
from celery_idempotent.mail.smtp.reply_codes import Kind
from tests.support.mailserver import NotTaking, ScriptedSMTP, Taking, by_name

app = Celery("classify", broker="memory://", backend="cache+memory://", set_as_current=False)
asked: list[tuple[int, str]] = []
says: dict[int, Any] = {}


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="classified", max_retries=0)
def send(n: int) -> str:
    EmailMessage("Hi", "text", to=["ann@example.com", "bob@example.com"]).send()
    return "sent"


def read(code: int, text: str) -> Any:
    asked.append((code, text))
    return says[code]() if callable(says.get(code)) else says.get(code)


@pytest.fixture(autouse=True)
def _hook(settings: Any) -> Iterator[None]:
    """Every test here starts with a hook that has nothing to say."""
    settings.CELERY_IDEMPOTENT |= {"CLASSIFY_REPLY": f"{__name__}.read"}
    yield
    asked.clear()
    says.clear()


def run(server: ScriptedSMTP, settings: Any) -> Any:
    settings.EMAIL_PORT = server.port
    return send.apply((1,))


def statuses() -> list[str]:
    return [d.status.value for d in send.entry_for(1).deliveries]


@pytest.mark.parametrize(
    ("step", "reply", "said", "becomes", "error"),
    [
        ("rcpt", "550 5.4.5 Daily quota", "temporary", "deferred", RecipientsDeferred),
        ("rcpt", "450 no such user", Kind.PERMANENT, "refused", RecipientsRefused),
        ("rcpt", "550 no", None, "refused", RecipientsRefused),
        ("mail", "550 5.4.5 Daily quota", "temporary", "deferred", RecipientsDeferred),
        ("data", "554 busy", "temporary", "deferred", RecipientsDeferred),
        ("dot", "554 busy", "temporary", "deferred", RecipientsDeferred),
        ("dot", "451 spam", "permanent", "refused", RecipientsRefused),
        ("dot", Taking("554 duplicate message"), "accepted", "accepted", None),
        ("dot", NotTaking("250 queued, perhaps"), "unknown", "in_doubt", DeliveryInDoubt),
        ("dot", NotTaking("250 no, later"), "temporary", "deferred", RecipientsDeferred),
    ],
)
def test_its_word_counts(settings: Any, step: str, reply: str, said: Any, becomes: str, error: Any) -> None:
    """At every step; None leaves the reply to the table."""
    says[int(reply[:3])] = said
    with ScriptedSMTP(**{step: reply}) as server:
        result = run(server, settings)
    assert (int(reply[:3]), reply[4:]) in asked
    assert statuses() == [becomes, becomes]
    assert type(result.result) is (error or str)


def test_it_can_name_a_limit(settings: Any) -> None:
    """The rest of the list is served in another transaction."""
    says[550] = "limit"
    replies = iter(["250 ok", "550 that is enough", "250 ok"])
    with ScriptedSMTP(rcpt=lambda _: next(replies)) as server:
        assert run(server, settings).get() == "sent"
    assert [received.recipients for received in server.accepted] == [["ann@example.com"], ["bob@example.com"]]


@pytest.mark.parametrize("said", ["accepted", "unknown"])
def test_it_cannot_accept_a_recipient_that_the_server_has_refused(settings: Any, said: str) -> None:
    """Whether the server counts it among the recipients is unclear, so that transaction goes no further."""
    says[550] = said
    with ScriptedSMTP(rcpt=by_name(bob="550 no")) as server:
        assert isinstance(run(server, settings).result, RecipientsDeferred)
    assert server.accepted == []
    assert statuses() == ["deferred", "deferred"]


def broken() -> Any:
    raise RuntimeError("the hook is broken")


@pytest.mark.parametrize("answer", [broken, lambda: "sometimes", lambda: 42])
def test_a_hook_that_fails_loses_no_reply(settings: Any, answer: Any) -> None:
    """It has come, and the table can read it."""
    says[250] = answer
    with ScriptedSMTP() as server:
        assert run(server, settings).get() == "sent"
    assert statuses() == ["accepted", "accepted"]


def test_a_hook_that_is_not_there_loses_no_reply(settings: Any) -> None:
    """The system check finds it; until somebody looks, the table decides."""
    settings.CELERY_IDEMPOTENT |= {"CLASSIFY_REPLY": "shop.nowhere.read"}
    with ScriptedSMTP() as server:
        assert run(server, settings).get() == "sent"


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (smtplib.SMTPServerDisconnected("gone"), True),
        (smtplib.SMTPConnectError(421, b"busy"), True),
        (smtplib.SMTPConnectError(-1, b""), True),
        (smtplib.SMTPConnectError(554, b"no"), False),
        (smtplib.SMTPAuthenticationError(454, b"4.7.0 later"), True),
        (smtplib.SMTPAuthenticationError(535, b"5.7.8 wrong"), False),
        (smtplib.SMTPNotSupportedError("STARTTLS"), False),
        (RecipientsDeferred("later"), True),
        (RecipientsRefused("no"), False),
        (ValueError("a header"), False),
    ],
)
def test_which_failures_before_a_hand_over_is_temporary(error: Exception, may: bool) -> None:
    """What a retry can mend, for a default policy of retries."""
    assert is_temporary(error) is may


def test_a_run_knows_what_is_worth_a_retry(settings: Any) -> None:
    """`Run.unserved` tells whether another try may mend what was raised."""
    from celery_idempotent.execution.run import current_run

    seen: list[Any] = []

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="worth-a-retry", max_retries=0)
    def worth(n: int) -> None:
        try:
            EmailMessage("Hi", "text", to=["ann@example.com"]).send()
        except Exception as error:
            seen.append(current_run().unserved.passes(error))  # type: ignore[union-attr]
            raise

    for script in ({"rcpt": "450 later"}, {"banner": "421 busy"}, {"rcpt": "550 no"}, {"banner": "554 no"}):
        with ScriptedSMTP(**script) as server:
            settings.EMAIL_PORT = server.port
            assert worth.apply((len(seen),)).state == "FAILURE"
    assert seen == [True, True, False, False]
