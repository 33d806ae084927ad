"""A refused request refuses no recipient where it is about the account, the sender, or nobody in particular."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask, Status
from celery_idempotent.exceptions import RecipientsDeferred, RecipientsRefused
from celery_idempotent.mail import EmailBackend
from celery_idempotent.mail.smtp.reply_codes import Kind
from tests.anymail.conftest import Use
from tests.anymail.receipts import ANN, BOB, DEFERRED, REFUSED, app, entry, send, statuses
from tests.support.held_doubts import is_held
from tests.support.providers import API


def ses(code: str, message: str = "no", status: int = 400) -> Any:
    """Return an error as Amazon SES answers it: https://docs.aws.amazon.com/ses/latest/APIReference-V2"""
    return status, {"message": message}, {"x-amzn-ErrorType": code}


def postmark(code: int, message: str = "no") -> Any:
    """Return an error as Postmark answers it: https://postmarkapp.com/developer/api/overview#error-codes"""
    return 422, {"ErrorCode": code, "Message": message}


ACCOUNT = [
    ("amazon_ses", ses("SendingPausedException")),
    ("amazon_ses", ses("AccountSuspendedException")),
    ("amazon_ses", ses("MailFromDomainNotVerifiedException")),
    ("amazon_ses", ses("LimitExceededException")),
    ("amazon_ses", ses("ThrottlingException", "Maximum sending rate exceeded.")),
    ("amazon_ses", ses("Throttling", "Daily message quota exceeded.")),
    ("amazon_ses", ses("TooManyRequestsException", status=429)),
    ("amazon_ses", ses("RequestExpired")),
    ("amazon_ses", ses("NotAuthorized")),
    ("amazon_ses", ses("SomethingNewException")),
    ("amazon_ses", ses("MessageRejected", "Email address is not verified.")),
    ("postmark", postmark(10)),
    ("postmark", postmark(400)),
    ("postmark", postmark(401)),
    ("postmark", postmark(405)),
    ("postmark", postmark(412)),
    ("postmark", postmark(413)),
    ("postmark", postmark(300, "Invalid 'From' address: 'shop'.")),
    ("postmark", (422, r'{"ErrorCode": 300, "Message": "Invalid \u0027From\u0027 address."}')),
]
MAIL = [
    ("amazon_ses", ses("MessageRejected")),
    ("amazon_ses", ses("BadRequestException", "Local address contains control or whitespace")),
    ("postmark", postmark(300, "Invalid metadata content.")),
    ("postmark", postmark(411)),
    ("postmark", (422, {"Message": "without a code"})),
    ("mailgun", (400, {"message": "'to' parameter is not a valid address"})),
]


@pytest.mark.parametrize(("name", "said"), ACCOUNT)
def test_trouble_with_the_account_refuses_nobody(name: str, said: Any, use: Use) -> None:
    """P2: as over SMTP, where a refusal of MAIL is none of a recipient. Once that is mended, it goes out."""
    with API(said, "ok") as api:
        use(name, api)
        assert isinstance(send().result, RecipientsDeferred)
        assert statuses() == [DEFERRED]
        assert send().get() == "sent"
    assert len(api.accepted) == 1


def test_the_providers_own_code_is_on_record(use: Use) -> None:
    """Somebody has to mend it."""
    with API(ses("SendingPausedException", "Sending is paused")) as api:
        use("amazon_ses", api)
        send()
    assert entry().deliveries[0].detail == "HTTP 400: SendingPausedException: Sending is paused"


@pytest.mark.parametrize(("name", "said"), MAIL)
def test_what_is_about_the_mail_refuses_its_only_recipient(name: str, said: Any, use: Use) -> None:
    """It would be refused again, so it is not offered again."""
    with API(said, "ok") as api:
        use(name, api)
        for _ in range(2):
            assert isinstance(send().result, RecipientsRefused)
    assert len(api.requests) == 1
    assert statuses() == [REFUSED]


@pytest.mark.parametrize(("name", "said"), MAIL)
def test_a_request_refused_as_a_whole_refuses_none_of_several(name: str, said: Any, use: Use) -> None:
    """P2: nobody knows which of them it was about. The task fails; once it is mended, a call serves them."""
    with API(said, "ok") as api:
        use(name, api)
        error = send(ANN, BOB).result
        assert isinstance(error, RecipientsRefused)
        assert str(error).startswith(
            "receipt: the request for 2 recipients was refused as a whole, nothing was sent: HTTP 4"
        )
        assert (entry().status, statuses()) == (Status.FAILED, [DEFERRED] * 2)
        assert send(ANN, BOB).get() == "sent"
    assert len(api.requests) == 2
    assert len(api.accepted) == 1


@pytest.mark.parametrize("code", [413, 414, 415])
def test_a_request_that_is_too_large_is_so_for_each(code: int, use: Use) -> None:
    """That is about the message, whoever it is for."""
    with API((code, "")) as api:
        use("mailgun", api)
        assert isinstance(send(ANN, BOB).result, RecipientsRefused)
    assert statuses() == [REFUSED] * 2


def test_no_retry_offers_a_request_again_that_was_refused_as_a_whole(use: Use) -> None:
    """It would be refused again: neither the queue's own retries nor those for who was refused for now."""
    task = app.task(autoretry_for=(Exception,), default_retry_delay=0, name="retried-receipt", **OPTIONS)(mail)
    with API((400, "")) as api:
        use("mailgun", api)
        assert isinstance(task.apply((1,)).result, RecipientsRefused)
    assert len(api.requests) == 1


OPTIONS: dict[str, Any] = {"base": IdempotentEmailTask, "key_fields": ("order",)}


def mail(order: int) -> None:
    EmailMessage("Hi", "text", to=[ANN, BOB]).send()


def test_a_body_may_send_it_another_way(use: Use) -> None:
    """Whoever was not refused may be served by a fallback."""

    @app.task(name="fallback-receipt", **OPTIONS)
    def fallback(order: int) -> str:
        message = EmailMessage("Hi", "text", to=[ANN, BOB])
        try:
            message.send()
        except RecipientsRefused:
            message.connection = EmailBackend(backend="anymail.backends.test.EmailBackend")
            message.send()
        return "sent"

    with API((400, "")) as api:
        use("mailgun", api)
        assert fallback.apply((1,)).get() == "sent"


def test_a_body_that_swallows_it_does_not_end_well(use: Use) -> None:
    """P2: somebody is owed the mail."""

    @app.task(name="swallowing-receipt", **OPTIONS)
    def swallowing(order: int) -> None:
        try:
            mail(order)
        except RecipientsRefused:
            pass

    with API((400, "")) as api:
        use("mailgun", api)
        assert isinstance(swallowing.apply((1,)).result, RecipientsRefused)
    assert swallowing.entry_for(1).status is Status.FAILED


def test_a_refusal_of_what_is_offered_again_settles_no_doubt(use: Use) -> None:
    """P1: it is about that offer, and the provider would say the same to another one."""
    with API("drop_after_accept", (422, {"name": "validation_error", "message": "no"})) as api:
        use("resend", api)
        assert is_held(send(ANN, BOB).result)
    assert len(api.requests) == 2
    assert entry().status is Status.IN_DOUBT


READINGS = [
    ("temporary", "deferred", RecipientsDeferred),
    ("limit", "deferred", RecipientsDeferred),
    (Kind.PERMANENT, "refused", RecipientsRefused),
    ("accepted", "accepted", None),
    (None, "deferred", RecipientsRefused),
    ("nonsense", "deferred", RecipientsRefused),
]


@pytest.fixture
def reading(settings: Any) -> Callable[[Any], list[Any]]:
    """Have ``CLASSIFY_REPLY`` say something, and note what it is asked."""

    def reading(said: Any) -> list[Any]:
        asked: list[Any] = []

        def read(code: int, text: str) -> Any:
            asked.append((code, text))
            return said

        settings.CELERY_IDEMPOTENT |= {"CLASSIFY_REPLY": read}
        return asked

    return reading


@pytest.mark.parametrize(("said", "becomes", "error"), READINGS)
def test_the_projects_own_reading_counts(
    said: Any, becomes: str, error: Any, use: Use, reading: Callable[[Any], list[Any]]
) -> None:
    """The hook for providers that misuse codes sees answers over HTTP, too, and can tell them from replies."""
    asked = reading(said)
    with API((400, {"message": "credits\nused up"})) as api:
        use("mailgun", api)
        result = send(ANN, BOB).result
    assert asked == [(400, 'HTTP 400: {"message": "credits\\nused up"}')]
    assert [d.status.value for d in entry().deliveries] == [becomes] * 2
    assert type(result) is (error or str)


def test_it_is_asked_about_what_the_table_calls_temporary(
    use: Use, reading: Callable[[Any], list[Any]]
) -> None:
    """A provider that says 403 to addresses that it blocks for good."""
    reading("permanent")
    with API((403, "")) as api:
        use("mailgun", api)
        assert isinstance(send().result, RecipientsRefused)
    assert statuses() == [REFUSED]


def test_an_answer_to_a_repeated_request_refuses_nothing_by_any_reading(
    use: Use, session: Callable[[Any], None], reading: Callable[[Any], list[Any]]
) -> None:
    """P1: the client had made the request before, and that one may have been taken."""
    from urllib3.util import Retry

    reading("temporary")
    session(Retry(status=1, status_forcelist=[500], allowed_methods=None, backoff_factor=0))
    with API((500, ""), (400, "")) as api:
        use("mailgun", api)
        assert is_held(send().result)
    assert len(api.requests) == 2
