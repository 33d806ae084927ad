"""Client libraries that send a request again by themselves: of what they report, nothing is definite then."""

from __future__ import annotations

import math
from typing import Any


def tries(backend: Any) -> float:
    """Return how often the open client of ``backend`` may send one request, `math.inf` if nothing ends it."""
    return max(_requests_tries(backend), _boto_tries(backend))


def _requests_tries(backend: Any) -> float:
    session = getattr(backend, "session", None)
    if session is None:
        return 1
    policy = session.get_adapter(getattr(backend, "api_url", "https://")).max_retries
    # urllib3's list of methods has no say in two kinds of retry: of a connection, when nothing has been sent,
    # and of "other" errors. A TLS record that is broken is such, and may come after the request was taken.
    kinds = [policy.other]
    if not policy.allowed_methods or "POST" in policy.allowed_methods:
        kinds += [policy.read, policy.status]
    return 1 + min(_limit(policy.total), sum(map(_limit, kinds)))


def _limit(count: int | bool | None) -> float:
    return math.inf if count is None else int(count)


def _boto_tries(backend: Any) -> int:
    config = getattr(getattr(getattr(backend, "client", None), "meta", None), "config", None)
    if config is None:
        return 1
    # botocore puts there what it makes of its configuration in every form. Without a number, "legacy" mode
    # makes 5 attempts and the others 3.
    retries = config.retries or {}
    return int(retries.get("total_max_attempts", 5 if retries.get("mode", "legacy") == "legacy" else 3))
