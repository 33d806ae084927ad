"""Which way a backend's messages take, and which failures on the way may pass by themselves."""

from __future__ import annotations

import smtplib
import ssl
from typing import Any

from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from ..core.errors import RecipientsRefused
from ..core.replies import Kind
from .classify import kind
from .connections import guarded
from .providers import Deduplication
from .registry import added_transport
from .smtp import SMTPTransport
from .transports import BackendTransport, Transport


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
