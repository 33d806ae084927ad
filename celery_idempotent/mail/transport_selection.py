"""Chooses the transport for an email backend: SMTP, one that an app has added, or one opaque step."""

from __future__ import annotations

from collections.abc import Callable

from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from ..compat import sends_as_django
from .any_backend import BackendTransport
from .providers import Deduplication
from .smtp.time_limits import add_time_limits
from .smtp.transport import SMTPTransport
from .transport_protocol import Transport

_Finder = Callable[[BaseEmailBackend, Deduplication | None], Transport | None]
"""Returns the transport for a backend, or None for a backend of another kind."""

_finders: list[_Finder] = []


def add_transport(finder: _Finder) -> _Finder:
    """Have ``finder`` asked about every backend that is not SMTP; called from `AppConfig.ready`."""
    if finder not in _finders:
        _finders.append(finder)
    return finder


def transport_for(backend: BaseEmailBackend, provider: Deduplication | None = None) -> Transport:
    """Return the SMTP transport for Django's SMTP backend, else an added transport, else one opaque step."""
    if isinstance(backend, DjangoSMTP) and sends_as_django(type(backend)):
        return SMTPTransport(backend, provider)
    added = (finder(backend, provider) for finder in _finders)
    return next((found for found in added if found is not None), None) or BackendTransport(backend)


def class_inside_tasks(kind: type[BaseEmailBackend]) -> type[BaseEmailBackend]:
    """Return the class of backend to use inside a task: one of SMTP gets time limits for its connections."""
    if isinstance(kind, type) and issubclass(kind, DjangoSMTP) and sends_as_django(kind):
        return add_time_limits(kind)  # type: ignore[arg-type]
    return kind
