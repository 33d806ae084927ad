"""Bodies that catch what a mail raises, and call ``self.retry`` themselves."""

from __future__ import annotations

from typing import Any

import pytest
from celery.exceptions import Retry
from django.core.mail import EmailMessage

from celery_idempotent import RecipientsDeferred, Status
from tests.mail.swallowing import LATER, task
from tests.support.mailserver import ScriptedSMTP

GREYLISTED = "450 4.7.1 Greylisted, try again in 300 seconds"


@task(bind=True, default_retry_delay=100)
def by_hand(self: Any, n: int, with_error: str, **options: Any) -> None:
    try:
        EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    except RecipientsDeferred as error:
        errors = {"": {}, "it": {"exc": error}, "another": {"exc": ValueError("no mail")}}
        raise self.retry(**errors[with_error], **options)


def when(settings: Any, answer: str, with_error: str, **options: Any) -> Any:
    """Return when the task wants to be run again, after the server has said ``answer``."""
    by_hand.push_request(id="first", args=(1, with_error), kwargs=options, called_directly=False, is_eager=True)
    try:
        with ScriptedSMTP(rcpt=answer) as server:
            settings.EMAIL_PORT = server.port
            by_hand.before_start("first", (1, with_error), options)
            with pytest.raises(Retry) as retry:
                by_hand(1, with_error, **options)
    finally:
        by_hand.pop_request()
    assert by_hand.entry_for(1, with_error).status is Status.RELEASED
    return retry.value.when


@pytest.mark.parametrize("with_error", ["", "it", "another"])
@pytest.mark.parametrize(
    ("answer", "countdown", "seconds"),
    [
        (GREYLISTED, None, 300),
        (GREYLISTED, 200, 300),
        (GREYLISTED, 400, 400),
        (LATER, None, 100),
        (LATER, 7, 7),
    ],
)
def test_not_before_the_server_takes_it(
    settings: Any, answer: str, with_error: str, countdown: int | None, seconds: int
) -> None:
    """Greylisting puts it off, whatever the retry is told about the error that it is made for."""
    options = {} if countdown is None else {"countdown": countdown}
    assert when(settings, answer, with_error, **options) == seconds


def test_an_error_that_means_something_else_by_the_same_name(settings: Any) -> None:
    """Other libraries have a ``retry_after`` too, and not always a number."""

    class Throttled(Exception):
        retry_after = "Wed, 21 Oct 2026 07:28:00 GMT"

    @task(bind=True, default_retry_delay=0)
    def throttled(self: Any, n: int) -> str:
        if self.request.retries:
            return "done"
        try:
            raise Throttled
        except Throttled as error:
            raise self.retry(exc=error)

    assert throttled.apply((1,)).get() == "done"
