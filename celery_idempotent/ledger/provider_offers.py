"""Hand-overs that a provider recognises by an idempotency key: a doubt about one ends by making it again.

Inside the provider's window the same content under the same key is one mail, however often it is offered. The
window is counted by the store's clock from the write-ahead of the first hand-over, which is before the provider
can have seen the key; so the provider remembers it for at least as long.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from .entry import After, Entry
from .outcomes import Reply
from .status import DeliveryStatus, Status

_LEFT_OUT = "left out of a later offer"
"""How the detail of a delivery in doubt begins, for which the key does not stand any more."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is written ahead of a hand-over that the provider will recognise."""

    key: str
    seconds: float
    """How long the provider recognises it."""
    sealed: str = ""
    """The content, encrypted; empty where the provider does not compare it."""


def with_provider_key(entry: Entry, offer: Offer | None) -> Entry:
    """Return ``entry`` with ``offer`` in place of an earlier one.

    Without a provider key a doubt cannot be settled by sending again.

    So can they where another message is in doubt already: an entry has one key and one content, and under
    those of this message the provider would know nothing of that one.
    """
    if offer is None or entry.doubtful_deliveries():
        return entry.without_provider_key()
    return replace(
        entry,
        provider_key=offer.key,
        recognised_until=After(offer.seconds),
        offers=1,
        sealed=offer.sealed,
    )


def key_for_storage(entry: Entry) -> Entry:
    """Return ``entry`` as it may be stored: key and content only while a mail server may hold the mail."""
    return entry if entry.status in (Status.SENDING, Status.IN_DOUBT) else entry.without_provider_key()


def reoffered(entry: Entry, served: Collection[tuple[str, str]] | None = None) -> Entry:
    """Return ``entry`` with its doubtful deliveries being handed over once more under the same key.

    Where not all of them are ``served``, by (part, digest), the others are marked: the provider may know the
    key from this offer, and then its answer to a later one says nothing about them.
    """
    rows = tuple(
        replace(d, detail=_marked(d.detail))
        if d.status is DeliveryStatus.IN_DOUBT and served is not None and d.key not in served
        else d
        for d in entry.deliveries
    )
    marked = replace(entry, deliveries=rows, offers=entry.offers + 1)
    return _turned(marked, DeliveryStatus.IN_DOUBT, DeliveryStatus.SENDING)


def _marked(detail: str) -> str:
    return detail if detail.startswith(_LEFT_OUT) else f"{_LEFT_OUT}: {detail}"[:200]


def _turned(entry: Entry, status: DeliveryStatus, other: DeliveryStatus) -> Entry:
    rows = (replace(d, status=other) if d.status is status else d for d in entry.deliveries)
    return replace(entry, deliveries=tuple(rows))


def as_before_reoffer(entry: Entry) -> Entry:
    """Return ``entry`` with what is being offered again as it was before: in doubt, until a reply settles it.

    An offer may leave some out, as a server's limit on recipients does.
    """
    return entry if entry.offers < 2 else _turned(entry, DeliveryStatus.SENDING, DeliveryStatus.IN_DOUBT)


def settled_reply(entry: Entry, place: tuple[str, str], reply: Reply) -> Reply:
    """Return what ``reply`` says about the delivery at ``place``, (part, digest), of ``entry``.

    ``entry`` is `as_before_reoffer`. Of one that was in doubt then, only an acceptance says something:
    a refusal is about this offer, not about the one whose reply was lost. Of one `_LEFT_OUT` nothing does.
    """
    for d in entry.deliveries:
        if d.key == place and d.status is DeliveryStatus.IN_DOUBT:
            if d.detail.startswith(_LEFT_OUT):
                return replace(reply, status=DeliveryStatus.IN_DOUBT, detail=_marked(reply.detail))
            if reply.status is not DeliveryStatus.ACCEPTED:
                return replace(reply, status=DeliveryStatus.IN_DOUBT)
    return reply


def after_handover(entry: Entry, accepted: bool) -> Entry:
    """Drop the provider key if some recipients were accepted and others are in doubt.

    Accepted for some, in doubt for others: the key now stands for those accepted, so the rest is held.
    """
    return entry.without_provider_key() if accepted and entry.doubtful_deliveries() else entry
