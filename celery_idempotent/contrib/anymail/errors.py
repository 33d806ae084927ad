"""What Anymail's errors say about a hand-over: taken, refused, not begun, or nobody knows."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3.exceptions
from anymail.exceptions import AnymailAPIError, AnymailRecipientsRefused
from requests import exceptions as requests_errors
from requests.structures import CaseInsensitiveDict

from ...core.outcomes import Reply
from ...core.status import DeliveryStatus
from ...mail.providers import Deduplication
from .deadline import NotBegun

REFUSED = frozenset({400, 413, 414, 415, 422})
"""The message or its recipients are what the provider does not take; it would say the same tomorrow."""
NOT_PROCESSED = frozenset({501, 505})
"""5xx that say that the request was not worked on (RFC 9110 §15.6); the others may come after it was."""

_NOT_SENT: tuple[type[BaseException], ...] = (
    NotBegun,
    ConnectionRefusedError,
    socket.gaierror,
    ssl.SSLCertVerificationError,
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
_LONGEST = 500
_LONGEST_WAIT = 86_400
"""Seconds; more than anybody waits."""


def reply_for(error: BaseException, provider: Deduplication | None, retried: bool) -> Reply:
    """Return what ``error``, raised while the request was made, says of it.

    ``retried``: the client may have made the request several times, of which it reports the last.
    """
    if isinstance(error, AnymailRecipientsRefused):  # by a backend of the project's own
        return Reply(DeliveryStatus.REFUSED, None, _first_line(error))
    code, headers, text = _answer(error)
    if code is None:
        name = type(error).__name__
        if not retried and any(_not_sent(cause) for cause in _causes(error)):
            return Reply(DeliveryStatus.DEFERRED, None, f"not sent: {name}: {_first_line(error)}")
        return Reply(DeliveryStatus.IN_DOUBT, None, f"no answer: {name}: {_first_line(error)}")
    if provider is not None and (said := provider.read(code, text)) is not None:
        return said
    wait = _wait(headers)
    asked = "" if wait is None else f"; retry after {wait} seconds"
    says_when = "Retry-After" in headers
    status = DeliveryStatus.IN_DOUBT if retried and _was_retried(error) else _status(code, says_when)
    return Reply(status, code, f"HTTP {code}: {' '.join(text.split())[:_LONGEST]}{asked}")


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


def _status(code: int, asks_to_wait: bool) -> DeliveryStatus:
    if code in REFUSED:
        return DeliveryStatus.REFUSED
    if 400 <= code < 500 or code in NOT_PROCESSED or (code == 503 and asks_to_wait):
        return DeliveryStatus.DEFERRED
    return DeliveryStatus.IN_DOUBT


def _answer(error: BaseException) -> tuple[int | None, Mapping[str, str], str]:
    """Return status, headers and text of the answer that ``error`` is about, if there was one."""
    response: Any = getattr(error, "response", None) if isinstance(error, AnymailAPIError) else None
    if isinstance(response, Mapping):  # botocore's
        about = response.get("ResponseMetadata", {})
        text = str(response.get("Error", {}).get("Message", ""))
        return about.get("HTTPStatusCode"), CaseInsensitiveDict(about.get("HTTPHeaders", {})), text
    if response is None or getattr(response, "status_code", None) is None:
        return None, {}, ""
    return response.status_code, response.headers, response.text


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
