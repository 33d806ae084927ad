"""Anymail's tracking signal: what a provider's webhook tells goes to the entry that the message names.

Whether a webhook is genuine is Anymail's to find out, before it sends the signal. An error here makes its view
answer with 500, and the provider tell it again: that is wanted where the ledger does not answer.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from ...conf import conf
from ...exceptions import DeliveryInDoubt, EntryUnreadable
from ...execution.reporting import tell
from ...ledger.addresses import recipient
from ...ledger.provider_events import ACCEPTED, Event
from ...stores.factory import get_ledger
from ...tasks.registry import by_email_type
from . import message_marks

logger = logging.getLogger("celery_idempotent")

KINDS = {
    "queued": ACCEPTED,
    "sent": ACCEPTED,
    "delivered": "delivered",
    "deferred": "deferred",
    "bounced": "bounced",
    "rejected": "rejected",
    "failed": "failed",
    "complained": "complained",
    # What people do with a mail is nobody's business here, but they have it.
    "opened": ACCEPTED,
    "clicked": ACCEPTED,
    "unsubscribed": ACCEPTED,
    "autoresponded": ACCEPTED,
}
"""Anymail's event types, as the ledger keeps them. Others say nothing about a hand-over."""


def hear(sender: Any, event: Any, esp_name: str, **_: Any) -> None:
    """Keep ``event`` with its entry, and report what it settles. Raises `LedgerUnavailable`."""
    mark = message_marks.read(event.metadata)
    kind = KINDS.get(event.event_type)
    if mark is None or kind is None:
        return
    ledger = get_ledger()
    heard = Event(
        kind=kind,
        at=_aware(event.timestamp) or ledger.store.now(),
        generation=mark.generation,
        message=mark.message,
        attempt=mark.attempt,
        recipient=_recipient(event, esp_name),
        source=esp_name,
        whole=mark.whole,
    )
    try:
        came_to = ledger.hear(mark.key, heard)
    except EntryUnreadable as error:
        logger.error("%s told %s of an entry that cannot be read: %s", esp_name, kind, error)
        return
    if came_to is None:
        logger.info("%s told %s of %s, which the ledger does not know (any more)", esp_name, kind, mark.key)
        return
    entry = came_to.entry
    if came_to.settled:
        task = by_email_type().get(entry.email_type)
        tell(task, entry, "webhook", DeliveryInDoubt(f"{esp_name} tells: {kind}"))


def _aware(moment: Any) -> datetime | None:
    return moment if isinstance(moment, datetime) and moment.utcoffset() is not None else None


def _recipient(event: Any, esp_name: str) -> str:
    """Return the digest of the address that ``event`` is about, or nothing where the provider does not say."""
    if not event.recipient or (esp_name == "Resend" and _has_several(event.esp_event)):
        return ""
    try:
        return recipient(event.recipient, conf.recipient_salt, conf.recipients).digest
    except UnicodeError:
        return ""  # a lone surrogate: nobody that the ledger has, and no reason to have it told again


def _has_several(esp_event: Any) -> bool:
    """Tell whether Resend's event is about a message to several: it does not say about whom of them."""
    data = esp_event.get("data") or {}
    return sum(len(data.get(name) or ()) for name in ("to", "cc", "bcc")) > 1
