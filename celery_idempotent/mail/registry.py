"""Where others say how the messages of their backends are handed over. ``mail`` itself knows SMTP alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.mail.backends.base import BaseEmailBackend

from .providers import Deduplication
from .transports import Transport

Finder = Callable[[BaseEmailBackend, Deduplication | None], Transport | None]
"""Returns the transport for a backend, or None where it is none of its own."""

_finders: list[Finder] = []


def add_transport(finder: Finder) -> Finder:
    """Have ``finder`` asked for every backend that is not SMTP; called from `AppConfig.ready`."""
    if finder not in _finders:
        _finders.append(finder)
    return finder


def added_transport(backend: BaseEmailBackend, provider: Any) -> Transport | None:
    """Return the first transport that somebody has for ``backend``."""
    return next((found for find in _finders if (found := find(backend, provider)) is not None), None)
