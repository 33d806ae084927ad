"""What an error of Anymail's, raised for a request, says about its recipients."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from anymail.backends.test import EmailBackend as AnymailTest
from anymail.exceptions import AnymailAPIError, AnymailRecipientsRefused, AnymailRequestsAPIError

from celery_idempotent import DeliveryInDoubt, Status
from celery_idempotent.exceptions import RecipientsDeferred, RecipientsRefused
from celery_idempotent.ledger.status import DeliveryStatus
from tests.anymail.outbox import offered
from tests.anymail.receipts import ANN, BOB, DEFERRED, IN_DOUBT, REFUSED, entry, send, statuses

pytestmark = pytest.mark.usefixtures("outbox")


def response(code: int, **headers: str) -> requests.Response:
    """Return an answer as requests has it."""
    made = requests.Response()
    made.status_code = code
    made.headers.update(headers)
    made._content = b'{"message": "about ann@example.com"}'
    return made


NEVER, OF_ALL, LATER_5XX = {413, 414, 415}, {400, 422}, {501, 505}


def meaning(code: int) -> DeliveryStatus:
    """Return what the page docs/how-to/anymail.md says of an HTTP status that is an error, for several."""
    if code in NEVER:
        return REFUSED
    return DEFERRED if 400 <= code < 500 or code in LATER_5XX else IN_DOUBT


@pytest.mark.parametrize("code", [*range(300, 309), *range(400, 432), 451, *range(500, 512), 520, 524, 599])
def test_each_http_status_of_a_requests_error(code: int) -> None:
    """Refused is never offered again, not taken is, and what may have been taken is held."""
    error = AnymailRequestsAPIError("no", response=response(code))
    results = {REFUSED: RecipientsRefused, DEFERRED: RecipientsDeferred, IN_DOUBT: DeliveryInDoubt}
    first = RecipientsRefused if code in OF_ALL else results[meaning(code)]
    assert type(send(ANN, BOB, anymail_test_response=error).result) is first
    assert statuses() == [meaning(code)] * 2
    assert [delivery.code for delivery in entry().deliveries] == [code] * 2
    assert ANN not in entry().deliveries[0].detail
    second = send(ANN, BOB).result
    if meaning(code) is DEFERRED:
        assert second == "sent"
        assert offered() == [[ANN, BOB]] * 2
    else:
        assert isinstance(second, results[meaning(code)])
        assert offered() == [[ANN, BOB]]


@pytest.mark.parametrize(("code", "seconds"), [(429, 30.0), (503, 120.0)])
def test_how_long_a_provider_wants_a_retry_to_wait(code: int, seconds: float) -> None:
    """Retry-After goes to the retry; with it, a 503 is the service's own word."""
    later = {"Retry-After": f"{seconds:.0f}"}
    error = AnymailRequestsAPIError("no", response=response(code, **later))
    result = send(anymail_test_response=error).result
    assert isinstance(result, RecipientsDeferred)
    assert result.retry_after == seconds


def caused(error: AnymailAPIError, cause: BaseException) -> AnymailAPIError:
    error.__cause__ = cause
    return error


WITHOUT_ANSWER = [
    (AnymailAPIError("something went wrong"), IN_DOUBT),
    (AnymailRequestsAPIError("no answer", response=None), IN_DOUBT),
    (caused(AnymailAPIError("x"), requests.ReadTimeout("timed out")), IN_DOUBT),
    (caused(AnymailAPIError("x"), requests.exceptions.ChunkedEncodingError("broken")), IN_DOUBT),
    (caused(AnymailAPIError("x"), ConnectionResetError(104, "reset")), IN_DOUBT),
    (caused(AnymailAPIError("x"), BrokenPipeError(32, "broken")), IN_DOUBT),
    (caused(AnymailAPIError("x"), ConnectionRefusedError(111, "refused")), DEFERRED),
    (caused(AnymailAPIError("x"), requests.ConnectTimeout("timed out")), DEFERRED),
]


@pytest.mark.parametrize(("error", "found"), WITHOUT_ANSWER)
def test_an_api_error_without_an_answer(error: AnymailAPIError, found: DeliveryStatus) -> None:
    """P1: only what failed before the request was made is definite."""
    result = send(anymail_test_response=error).result
    assert isinstance(result, RecipientsDeferred if found is DEFERRED else DeliveryInDoubt)
    assert statuses() == [found]
    assert (send().result == "sent") is (found is DEFERRED)


class Refusing(AnymailTest):
    """A project's own, that raises what Anymail has for "nobody was served" itself."""

    def post_to_esp(self, payload: Any, message: Any) -> Any:
        super().post_to_esp(payload, message)
        raise AnymailRecipientsRefused(email_message=message, payload=payload)


def test_all_recipients_refused_is_said_by_an_error(settings: Any) -> None:
    """AnymailRecipientsRefused is an answer: the recipients are refused for good, and not offered it again."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.Refusing"}
    for _ in range(2):
        assert isinstance(send(ANN, BOB).result, RecipientsRefused)
    assert offered() == [[ANN, BOB]]
    assert statuses() == [REFUSED] * 2
    assert entry().status is Status.FAILED


class OwnWay(AnymailTest):
    """Overrides what Anymail says nobody should."""

    def _send(self, message: Any) -> bool:
        raise ValueError("its own")


def test_a_backend_that_sends_in_its_own_way_is_one_step(settings: Any) -> None:
    """Its steps are not known, so that whatever it raises is a doubt."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.OwnWay"}
    assert isinstance(send().result, DeliveryInDoubt)
