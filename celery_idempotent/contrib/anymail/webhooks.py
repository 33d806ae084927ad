"""Receiver of Anymail's tracking signal: keeps the event of a webhook with the entry that the message names.

Anymail checks that a webhook is genuine before it sends the signal. An error here makes Anymail's view answer
with 500, and the provider repeat the webhook: that is wanted where the ledger does not answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from anymail.signals import AnymailTrackingEvent

from ...conf import conf
from ...exceptions import DeliveryInDoubt, EntryUnreadable
from ...execution.reporting import tell
from ...ledger.addresses import recipient
from ...ledger.provider_events import ACCEPTED, Event
from ...stores.factory import get_ledger
from ...tasks.registry import by_email_type
from .message_marks import Mark

logger = logging.getLogger("celery_idempotent")

_KINDS = {
    "queued": ACCEPTED,
    "sent": ACCEPTED,
    "delivered": "delivered",
    "deferred": "deferred",
    "bounced": "bounced",
    "rejected": "rejected",
    "failed": "failed",
    "complained": "complained",
    # The actions of recipients do not count here, but prove that they have the mail.
    "opened": ACCEPTED,
    "clicked": ACCEPTED,
    "unsubscribed": ACCEPTED,
    "autoresponded": ACCEPTED,
}
"""Anymail's event types, and the ledger's. Other types say nothing about a hand-over."""


def hear(sender: object, event: AnymailTrackingEvent, esp_name: str, **_: object) -> None:
    """Keep ``event`` with its entry, and report a doubt that it settles. Raises `LedgerUnavailable`."""
    mark = Mark.read(event.metadata)
    kind = _KINDS.get(event.event_type)
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


def _aware(moment: object) -> datetime | None:
    return moment if isinstance(moment, datetime) and moment.utcoffset() is not None else None


def _recipient(event: AnymailTrackingEvent, esp_name: str) -> str:
    """Return the digest of the address in ``event``, or an empty text where the provider names nobody."""
    if not event.recipient or (esp_name == "Resend" and _has_several(event.esp_event)):
        return ""
    try:
        return recipient(event.recipient, conf.recipient_salt, conf.recipients).digest
    except UnicodeError:
        return ""  # a lone surrogate: no recipient of the ledger, and no reason to have the webhook repeated


def _has_several(esp_event: Mapping[str, Mapping[str, Sequence[str] | None]]) -> bool:
    """Tell whether Resend's event is about a message to several recipients: it names none of them."""
    data = esp_event.get("data") or {}
    return sum(len(data.get(name) or ()) for name in ("to", "cc", "bcc")) > 1
