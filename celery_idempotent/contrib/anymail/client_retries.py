"""Counts how often a client library sends one request by itself: after several, no error is definite."""

from __future__ import annotations

import math

from anymail.backends.base import AnymailBaseBackend


def count_tries(backend: AnymailBaseBackend) -> float:
    """Return how often the open client of ``backend`` may send one request; `math.inf` if there is no limit."""
    return max(_count_of_requests(backend), _count_of_boto(backend))


def _count_of_requests(backend: AnymailBaseBackend) -> float:
    session = getattr(backend, "session", None)
    if session is None:
        return 1
    policy = session.get_adapter(getattr(backend, "api_url", "https://")).max_retries
    # urllib3's list of methods does not limit two kinds of retry: of a connection, when nothing has been sent,
    # and of "other" errors, such as a broken TLS record, which may come after the request was taken.
    kinds = [policy.other]
    if not policy.allowed_methods or "POST" in policy.allowed_methods:
        kinds += [policy.read, policy.status]
    return 1 + min(_limit(policy.total), sum(map(_limit, kinds)))


def _limit(count: int | bool | None) -> float:
    return math.inf if count is None else int(count)


def _count_of_boto(backend: AnymailBaseBackend) -> int:
    config = getattr(getattr(getattr(backend, "client", None), "meta", None), "config", None)
    if config is None:
        return 1
    # botocore resolves all forms of its configuration into this one. Without a number, "legacy" mode makes 5
    # attempts and the other modes 3.
    retries = config.retries or {}
    return int(retries.get("total_max_attempts", 5 if retries.get("mode", "legacy") == "legacy" else 3))
