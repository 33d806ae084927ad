"""Expire an entry whose deadline has passed, by the store's clock alone."""

from __future__ import annotations

from dataclasses import replace

from .attempts import attempt_ended
from .doubts import doubtful
from .entry import Entry
from .status import IN_FLIGHT, DeliveryStatus, Status
from .store import Store
from .writes import swap


def expire(store: Store, key: str) -> Entry | None:
    """Release the entry of ``key`` if its lease has passed, or call it in doubt if its send deadline has.

    A hand-over that the provider has proven meanwhile is in no doubt, and released as well.

    Return what it became; None where its deadline is running, or somebody was faster. The claim's id stays, so
    that a process which is slow and not dead may go on, as long as nobody has claimed since. Raises
    `LedgerUnavailable`.
    """
    stored = store.get(key)
    if stored is None or stored.entry.status not in IN_FLIGHT or stored.entry.is_running(stored.now):
        return None
    entry = stored.entry
    released = replace(entry, status=Status.RELEASED, deadline=None)
    if entry.status is Status.CLAIMED:
        return swap(store, released, entry)
    changed = doubtful(entry)
    if changed.deliveries and not changed.doubtful_deliveries():  # the provider has told meanwhile
        changed = replace(released, deliveries=changed.deliveries, sent_at=changed.sent_at)
    return swap(store, changed, entry, attempt_ended(entry, DeliveryStatus.IN_DOUBT))
