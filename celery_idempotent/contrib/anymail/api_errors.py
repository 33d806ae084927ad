"""What Anymail's errors say about a hand-over: taken, refused, not begun, or nobody knows."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import urllib3.exceptions
from anymail.exceptions import AnymailAPIError, AnymailRecipientsRefused
from requests import exceptions as requests_errors
from requests.structures import CaseInsensitiveDict
from urllib3.util.ssl_match_hostname import CertificateError

from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ...mail.providers import Deduplication
from ...mail.smtp.reply_codes import STATUS, own_reading
from .client_timeouts import NotBegun

REFUSED = frozenset({400, 413, 414, 415, 422})
"""The message or its recipients are what the provider does not take; it would say the same tomorrow."""
NAMELESS = frozenset({400, 422})
"""Those of `REFUSED` that may be about anything in the request: one address, the sender, the account."""
NOT_PROCESSED = frozenset({501, 505})
"""5xx that say that the request was not worked on (RFC 9110 §15.6); the others may come after it was."""

_NOT_SENT: tuple[type[BaseException], ...] = (
    NotBegun,
    ConnectionRefusedError,
    socket.gaierror,
    ssl.SSLCertVerificationError,
    CertificateError,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
    requests_errors.ConnectTimeout,
    requests_errors.InvalidURL,
    requests_errors.InvalidSchema,
    requests_errors.MissingSchema,
    requests_errors.InvalidHeader,
)
_NOT_SENT_BY_BOTO = frozenset(
    {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "NoRegionError",
        "ParamValidationError",
    }
)
# https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html and CommonErrors.html there;
# https://postmarkapp.com/developer/api/overview#error-codes
_OF_THE_MAIL = {
    "Amazon SES": frozenset({"BadRequestException", "MessageRejected", "ValidationError"}),
    "Postmark": frozenset({"300", "402", "403", "406", "409", "411"}),
}
"""The providers' own codes about a message or its recipients, by Anymail's ``esp_name``.

All others are about the account, the sender, or too many requests, and say nothing about a recipient.
"""
_OF_THE_SENDER = {"Amazon SES": "is not verified", "Postmark": "'From'"}
"""Words by which an answer with one of these codes is about the sender all the same."""
_LONGEST = 500
_LONGEST_WAIT = 86_400
"""Seconds; more than anybody waits."""


class Unnamed(Reply):
    """The request was refused, and none of its recipients in particular: nobody knows whom that is about.

    DEFERRED, so that a later call offers it again; no retry would mend it.
    """


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str
    provider: str
    """Anymail's ``esp_name``."""
    code: str = ""
    """The provider's own, where it is known how that tells it."""
    words: str = ""
    """What the provider says beside its code, out of JSON."""


def reply_for(
    error: BaseException, provider: Deduplication | None, retried: bool, several: bool = False
) -> Reply:
    """Return what ``error``, raised while the request was made, says of it.

    ``retried``: the client may have made the request several times, of which it reports the last. ``several``:
    a refusal may be about one of them alone.
    """
    if isinstance(error, AnymailRecipientsRefused):  # by a backend of the project's own
        return Reply(DeliveryStatus.REFUSED, None, _first_line(error))
    answer = _answer(error)
    if answer is None:
        name = type(error).__name__
        if not retried and any(_not_sent(cause) for cause in _causes(error)):
            return Reply(DeliveryStatus.DEFERRED, None, f"not sent: {name}: {_first_line(error)}")
        return Reply(DeliveryStatus.IN_DOUBT, None, f"no answer: {name}: {_first_line(error)}")
    if provider is not None and (said := provider.read(answer.status, answer.text)) is not None:
        return said
    return _read(answer, retried and _was_retried(error), several)


def _read(answer: _Answer, repeated: bool, several: bool) -> Reply:
    """Return what ``answer`` says: by ``CLASSIFY_REPLY`` first, then by its codes."""
    code, text = answer.status, f"HTTP {answer.status}: {' '.join(answer.text.split())}"
    own = own_reading(code, text)
    status = _status(answer) if own is None else STATUS[own]
    if repeated and status is not DeliveryStatus.ACCEPTED:
        status = DeliveryStatus.IN_DOUBT
    wait = _wait(answer.headers)
    detail = text[:_LONGEST] + ("" if wait is None else f"; retry after {wait} seconds")
    if own is None and several and status is DeliveryStatus.REFUSED and code in NAMELESS:
        return Unnamed(DeliveryStatus.DEFERRED, code, detail)
    return Reply(status, code, detail)


def _wait(headers: Mapping[str, str]) -> int | None:
    """Return the seconds that an answer asks for: a number or a date (RFC 9110 §10.2.3), by its own clock."""
    said = headers.get("Retry-After", "")
    if said.isdecimal():
        return min(int(said[:9]), _LONGEST_WAIT)
    until, now = _date(said), _date(headers.get("Date", "")) or datetime.now(timezone.utc)
    if until is None:
        return None
    return min(max(math.ceil((until - now).total_seconds()), 0), _LONGEST_WAIT)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _status(answer: _Answer) -> DeliveryStatus:
    code = answer.status
    if code in REFUSED and not (code in NAMELESS and _is_of_the_account(answer)):
        return DeliveryStatus.REFUSED
    asks_to_wait = "Retry-After" in answer.headers
    if 400 <= code < 500 or code in NOT_PROCESSED or (code == 503 and asks_to_wait):
        return DeliveryStatus.DEFERRED
    return DeliveryStatus.IN_DOUBT


def _is_of_the_account(answer: _Answer) -> bool:
    """Tell whether the provider says that it takes nothing from this account or sender, or not so much."""
    if not answer.code:
        return False
    name = answer.provider
    return answer.code not in _OF_THE_MAIL[name] or _OF_THE_SENDER[name] in answer.words


def _answer(error: BaseException) -> _Answer | None:
    """Return the answer that ``error`` is about, if there was one."""
    if not isinstance(error, AnymailAPIError):
        return None
    response: Any = error.response
    if isinstance(response, Mapping):  # botocore's
        return _botos(response)
    if response is None or getattr(response, "status_code", None) is None:
        return None
    name = str(error.esp_name)
    own = _postmarks(response) if name == "Postmark" else ()
    return _Answer(response.status_code, response.headers, response.text, name, *own)


def _botos(response: Mapping[str, Any]) -> _Answer | None:
    about, said = response.get("ResponseMetadata", {}), response.get("Error", {})
    if about.get("HTTPStatusCode") is None:
        return None
    headers, code = CaseInsensitiveDict(about.get("HTTPHeaders", {})), str(said.get("Code", ""))
    words = str(said.get("Message", ""))
    return _Answer(about["HTTPStatusCode"], headers, f"{code}: {words}", "Amazon SES", code, words)


def _postmarks(response: Any) -> tuple[str, ...]:
    """Return the answer's code and words, or nothing."""
    try:
        said = response.json()
        return str(said["ErrorCode"]), str(said.get("Message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def _was_retried(error: BaseException) -> bool:
    """Tell whether the answer is that to a repeated request: the one before it may have been taken."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return bool(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))
    return bool(getattr(getattr(getattr(response, "raw", None), "retries", None), "history", ()))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and what it was raised from, also where a library only hands that on as an argument."""
    seen: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            todo += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _not_sent(cause: BaseException) -> bool:
    return isinstance(cause, _NOT_SENT) or type(cause).__name__ in _NOT_SENT_BY_BOTO


def _first_line(error: BaseException) -> str:
    causes = [cause for cause in _causes(error) if cause is not error]
    return (str(causes[0] if causes else error).splitlines() or [""])[0][:_LONGEST]
