"""Delivery errors of one run, by recipient.

A body may catch them and return; the run must still not count as sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..ledger.entry import Delivery, DeliveryKey
from ..ledger.status import DeliveryStatus

CONNECTION: DeliveryKey = ("", "")
"""Stands for messages that the body had no connection to send over."""
NAMELESS: DeliveryKey = ("", "nameless")
"""Stands for messages whose recipients, or whose part, the ledger could not name."""


class Raised(NamedTuple):
    """What was raised, and whether another try may mend it."""

    error: Exception
    passes: bool


class UnservedRecipients:
    """The last error about each recipient, of one run."""

    def __init__(self) -> None:
        self._raised: dict[DeliveryKey, Raised] = {}

    def note(self, keys: Iterable[DeliveryKey], error: Exception, passes: bool) -> None:
        """Keep ``error``, the last one about ``keys``."""
        for key in keys:
            self._raised.pop(key, None)
            self._raised[key] = Raised(error, passes)

    def forget_connection_error(self) -> None:
        """Forget a connection that could not be opened: the body sends all the same, over this or another."""
        self._raised.pop(CONNECTION, None)

    def passes(self, error: Exception) -> bool:
        """Tell whether ``error`` came from a hand-over that another try may mend."""
        return any(raised.passes for raised in self._raised.values() if raised.error is error)

    def blocking_error(self, deliveries: Sequence[Delivery]) -> Exception | None:
        """Return the error of a body that must not end well with ``deliveries`` like these, or None.

        That is while somebody is neither served nor refused for good, or where nobody at all was served. Of
        several errors it is one that may pass, and of these the one that asks for the longest wait.
        """
        left = self.unserved(deliveries)
        owed = [raised for raised, status in left if not _is_final(raised.error, status)]
        if not owed and not any(d.status is DeliveryStatus.ACCEPTED for d in deliveries):
            owed = [raised for raised, _ in left]
        return max(reversed(owed), key=_urgency).error if owed else None

    def unserved(self, deliveries: Sequence[Delivery]) -> list[tuple[Raised, DeliveryStatus | None]]:
        """Return the errors about recipients whom ``deliveries`` do not show as served, with their statuses."""
        known = {d.key: d.status for d in deliveries}
        left = [(raised, known.get(key)) for key, raised in self._raised.items()]
        return [(raised, status) for raised, status in left if status is not DeliveryStatus.ACCEPTED]


def _is_final(error: Exception, status: DeliveryStatus | None) -> bool:
    """Tell whether the recipient was refused for good, or the message is one that cannot be written."""
    return status is DeliveryStatus.REFUSED or (status is None and isinstance(error, ValueError))


def _urgency(raised: Raised) -> tuple[bool, float]:
    return raised.passes, getattr(raised.error, "retry_after", None) or 0.0
