"""Reads errors of Anymail's clients: the provider took the mail, refused it, never got it, or nobody knows."""

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
from requests import Response
from requests import exceptions as requests_errors
from requests.structures import CaseInsensitiveDict
from urllib3.util.ssl_match_hostname import CertificateError

from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ...mail.providers import Deduplication
from ...mail.smtp.reply_codes import ServerReply
from .client_timeouts import NotBegun

_REFUSED = frozenset({400, 413, 414, 415, 422})
"""Status codes that refuse the message or its recipients for good."""
_UNSPECIFIC = frozenset({400, 422})
"""Codes of `_REFUSED` that do not say *what* was refused: a recipient, the sender or the account."""
_NOT_PROCESSED = frozenset({501, 505})
"""Codes 5xx by which the request was not worked on (RFC 9110 §15.6); others may come after it was."""

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
"""Providers' own codes about a message or its recipients, by Anymail's ``esp_name``.

Their other codes are about the account, the sender, or too many requests.
"""
_OF_THE_SENDER = {"Amazon SES": "is not verified", "Postmark": "'From'"}
"""Words that show an answer with one of these codes to be about the sender."""
_LONGEST = 500
_LONGEST_WAIT = 86_400
"""Seconds; a longer time in ``Retry-After`` counts as this."""


class UnspecificRefusal(Reply):
    """Reply to a request that was refused as a whole, without a word about one of its recipients.

    Its status is DEFERRED, so that a later call offers the mail again; no retry would mend it.
    """


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str
    provider: str
    """Anymail's ``esp_name``."""
    code: str = ""
    """The provider's own code, where we know how to read it."""
    words: str = ""
    """The provider's text beside its code, decoded from JSON."""


def read_error(
    error: BaseException, provider: Deduplication | None, retried: bool, several: bool = False
) -> Reply:
    """Return the reply that ``error``, raised during the request, amounts to.

    ``retried`` if the client may have made the request several times: it reports the last one. ``several`` if a
    refusal may be about one of several recipients.
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
    """Return the reply of ``answer``: by ``CLASSIFY_REPLY`` first, then by its codes."""
    code, text = answer.status, f"HTTP {answer.status}: {' '.join(answer.text.split())}"
    own = ServerReply.read(code, text).ask_hook()
    status = _status(answer) if own is None else own.status
    if repeated and status is not DeliveryStatus.ACCEPTED:
        status = DeliveryStatus.IN_DOUBT
    wait = _wait(answer.headers)
    detail = text[:_LONGEST] + ("" if wait is None else f"; retry after {wait} seconds")
    if own is None and several and status is DeliveryStatus.REFUSED and code in _UNSPECIFIC:
        return UnspecificRefusal(DeliveryStatus.DEFERRED, code, detail)
    return Reply(status, code, detail)


def _wait(headers: Mapping[str, str]) -> int | None:
    """Return the seconds in ``Retry-After``, a number or a date by the answer's clock (RFC 9110 §10.2.3)."""
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
    if code in _REFUSED and not (code in _UNSPECIFIC and _is_of_the_account(answer)):
        return DeliveryStatus.REFUSED
    asks_to_wait = "Retry-After" in answer.headers
    if 400 <= code < 500 or code in _NOT_PROCESSED or (code == 503 and asks_to_wait):
        return DeliveryStatus.DEFERRED
    return DeliveryStatus.IN_DOUBT


def _is_of_the_account(answer: _Answer) -> bool:
    """Tell whether the provider refuses the account, its sender, or its number of requests."""
    if not answer.code:
        return False
    name = answer.provider
    return answer.code not in _OF_THE_MAIL[name] or _OF_THE_SENDER[name] in answer.words


def _answer(error: BaseException) -> _Answer | None:
    """Return the answer that ``error`` carries, if the provider gave one."""
    if not isinstance(error, AnymailAPIError):
        return None
    response = error.response
    if isinstance(response, Mapping):  # of botocore
        return _read_boto_answer(response)
    if response is None or getattr(response, "status_code", None) is None:
        return None
    name = str(error.esp_name)
    own = _read_postmark_codes(response) if name == "Postmark" else ()
    return _Answer(response.status_code, response.headers, response.text, name, *own)


def _read_boto_answer(response: Mapping[str, Any]) -> _Answer | None:
    about, said = response.get("ResponseMetadata", {}), response.get("Error", {})
    if about.get("HTTPStatusCode") is None:
        return None
    headers, code = CaseInsensitiveDict(about.get("HTTPHeaders", {})), str(said.get("Code", ""))
    words = str(said.get("Message", ""))
    return _Answer(about["HTTPStatusCode"], headers, f"{code}: {words}", "Amazon SES", code, words)


def _read_postmark_codes(response: Response) -> tuple[str, ...]:
    """Return Postmark's own code and text in ``response``, or nothing."""
    try:
        said = response.json()
        return str(said["ErrorCode"]), str(said.get("Message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def _was_retried(error: BaseException) -> bool:
    """Tell whether the answer is to a repeated request: the request before it may have been taken."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return bool(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))
    return bool(getattr(getattr(getattr(response, "raw", None), "retries", None), "history", ()))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and its causes, also those that a library only passes on as an argument."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
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
