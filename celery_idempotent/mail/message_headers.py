"""Headers of a message that stay the same in all its attempts: Message-ID and Date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import format_datetime

from django.conf import settings
from django.core.mail import EmailMessage

from ..ledger.entry import Entry


def given_message_id(message: EmailMessage) -> str | None:
    """Return the Message-ID that the project has set; the project has to keep it the same."""
    for name, value in message.extra_headers.items():
        if name.lower() == "message-id":
            return str(value)[:255]
    return None


@contextmanager
def stamp(message: EmailMessage, entry: Entry, message_id: str, without: str) -> Iterator[None]:
    """Inside the block ``message`` has the generation's Message-ID and Date, and no header ``without``."""
    headers = message.extra_headers
    kept = {name: value for name, value in headers.items() if name.lower() != without.lower()}
    given = {name.lower() for name in kept}
    stamps = {"Message-ID": message_id}
    if entry.begun_at is not None:
        stamps["Date"] = _date(entry.begun_at)  # type: ignore[arg-type]
    message.extra_headers = kept | {k: v for k, v in stamps.items() if k.lower() not in given}
    try:
        yield
    finally:
        message.extra_headers = headers


def _date(moment: datetime) -> str:
    """Return ``moment`` as Django's own Date: in UTC, or in local time with ``EMAIL_USE_LOCALTIME``."""
    return format_datetime(moment.astimezone() if settings.EMAIL_USE_LOCALTIME else moment)
