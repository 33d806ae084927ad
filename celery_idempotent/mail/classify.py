"""Replies as the ledger keeps them: the project's own reading first, then the table."""

from __future__ import annotations

import logging

from ..conf import conf
from ..core.addresses import printable
from ..core.outcomes import Reply
from ..core.replies import Kind, kind_of
from ..core.status import DeliveryStatus

logger = logging.getLogger("celery_idempotent")

LONGEST_TEXT = 2000
STATUS = {
    Kind.ACCEPTED: DeliveryStatus.ACCEPTED,
    Kind.TEMPORARY: DeliveryStatus.DEFERRED,
    Kind.LIMIT: DeliveryStatus.DEFERRED,
    Kind.PERMANENT: DeliveryStatus.REFUSED,
    Kind.UNKNOWN: DeliveryStatus.IN_DOUBT,
}


def readable(text: bytes | str) -> str:
    """Return the text of a reply on one line, as every store can keep it, and no more than is worth reading."""
    text = text[:LONGEST_TEXT]
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return " ".join(printable(said).split())


def kind(code: int, text: bytes | str, at_rcpt: bool = False) -> Kind:
    """Return what a reply says: by ``CLASSIFY_REPLY``, and by the table where that returns None or raises."""
    said = readable(text)
    own = own_reading(code, said)
    return kind_of(code, said, at_rcpt) if own is None else own


def own_reading(code: int, text: str) -> Kind | None:
    """Return what ``CLASSIFY_REPLY`` says of a reply, or None where it leaves that to the table."""
    try:
        hook = conf.classify_reply
        own = hook(code, readable(text)) if hook is not None else None
        return None if own is None else Kind(own)
    except Exception:  # a reply that has come must not be lost by a mistake in reading it
        logger.exception("CLASSIFY_REPLY cannot be used for the reply code %s; the table decides", code)
        return None


def refusal(said: Kind, code: int, text: bytes | str) -> Reply:
    """Return a reply to something before the payload, to which the server did not say yes: definite."""
    status = DeliveryStatus.REFUSED if said is Kind.PERMANENT else DeliveryStatus.DEFERRED
    return Reply(status, _recorded(code), readable(text))


def verdict(code: int, text: bytes | str) -> tuple[Kind, Reply]:
    """Return what the reply to a payload says; one that says nothing is a doubt."""
    said = kind(code, text)
    return said, Reply(STATUS[said], _recorded(code), readable(text))


def unoffered(code: int, text: bytes | str) -> Reply:
    """Return the reply that ended a transaction before its payload, for those whom it was not about."""
    return Reply(DeliveryStatus.DEFERRED, _recorded(code), readable(text))


def _recorded(code: int) -> int | None:
    return code if 100 <= code <= 599 else None
