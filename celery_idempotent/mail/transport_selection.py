"""Which way a backend's messages take, and which failures on the way may pass by themselves."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from typing import Any

from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from ..exceptions import RecipientsRefused
from .any_backend import BackendTransport
from .providers import Deduplication
from .smtp.connections import guarded
from .smtp.reply_codes import Kind, kind
from .smtp.transport import SMTPTransport
from .transport_protocol import Transport


def is_smtp(kind: Any) -> bool:
    """Tell whether ``kind`` is Django's SMTP backend, or one derived from it that sends as that does."""
    return (
        isinstance(kind, type)
        and issubclass(kind, DjangoSMTP)
        and all(getattr(kind, name) is getattr(DjangoSMTP, name) for name in ("send_messages", "_send"))
    )


def transport_for(backend: BaseEmailBackend, provider: Deduplication | None = None) -> Transport:
    """Return the SMTP conversation for Django's SMTP backend, else what was added, else one opaque step."""
    if is_smtp(type(backend)):
        return SMTPTransport(backend, provider)
    return added_transport(backend, provider) or BackendTransport(backend)


def tracked(kind: Any) -> Any:
    """Return ``kind`` of backend as it is used inside a task."""
    return guarded(kind) if is_smtp(kind) else kind


def may_pass(error: BaseException) -> bool:
    """Tell whether a failure to reach the mail server, to be let in, or to be served, may pass by itself."""
    if isinstance(error, ssl.SSLCertVerificationError | smtplib.SMTPNotSupportedError | RecipientsRefused):
        return False
    if isinstance(error, smtplib.SMTPResponseException):
        return kind(error.smtp_code, error.smtp_error) is not Kind.PERMANENT
    return isinstance(error, OSError)


Finder = Callable[[BaseEmailBackend, Deduplication | None], Transport | None]
"""Returns the transport for a backend, or None where it is none of its own."""

_transport_finders: list[Finder] = []


def add_transport(finder: Finder) -> Finder:
    """Have ``finder`` asked for every backend that is not SMTP; called from `AppConfig.ready`."""
    if finder not in _transport_finders:
        _transport_finders.append(finder)
    return finder


def added_transport(backend: BaseEmailBackend, provider: Any) -> Transport | None:
    """Return the first transport that somebody has for ``backend``."""
    return next((found for find in _transport_finders if (found := find(backend, provider)) is not None), None)
