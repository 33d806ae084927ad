"""Client libraries that send a request again by themselves: of what they report, nothing is definite then."""

from __future__ import annotations

from typing import Any


def tries(backend: Any) -> int:
    """Return how often the open client of ``backend`` may send one request."""
    return max(_requests_tries(backend), _boto_tries(backend))


def _requests_tries(backend: Any) -> int:
    session = getattr(backend, "session", None)
    if session is None:
        return 1
    retries = session.get_adapter(getattr(backend, "api_url", "https://")).max_retries
    if retries.allowed_methods and "POST" not in retries.allowed_methods:
        return 1  # urllib3's default: only a connection is tried again, when nothing has been sent
    counts = [int(count or 0) for count in (retries.read, retries.status, retries.other)]
    if retries.total is None:  # each kind is counted by itself
        return 1 + max(counts)
    return 1 + int(retries.total)


def _boto_tries(backend: Any) -> int:
    client = getattr(backend, "client", None)
    config = getattr(getattr(client, "meta", None), "config", None)
    retries = getattr(config, "retries", None)
    if config is None:
        return 1
    # botocore: without a number, "legacy" mode makes 5 attempts and the others 3.
    settings = retries or {}
    if "total_max_attempts" in settings:
        return int(settings["total_max_attempts"])
    if "max_attempts" in settings:
        return 1 + int(settings["max_attempts"])
    return 5 if settings.get("mode", "legacy") == "legacy" else 3
