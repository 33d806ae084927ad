"""What is raised about recipients who are not served: a body may swallow it, and end well all the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .core.entry import Delivery
from .core.status import DeliveryStatus

Place = tuple[str, str]
"""Part and recipient digest of a delivery."""
NOBODY: Place = ("", "")
"""Stands for messages that have not come to a recipient: there was no connection, or one before them failed."""


class Raised(NamedTuple):
    """What was raised."""

    error: Exception
    passes: bool
    """Another try may mend it."""
    is_final: bool
    """The message is one that cannot be written: no try will mend it."""


class Unserved:
    """The last error about each recipient, of one run."""

    def __init__(self) -> None:
        self._raised: dict[Place, Raised] = {}

    def note(
        self, places: Iterable[Place], error: Exception, passes: bool = False, is_final: bool = False
    ) -> None:
        """Keep ``error``, the last one about ``places``."""
        for place in places:
            self._raised.pop(place, None)
            self._raised[place] = Raised(error, passes, is_final)

    def goes_on(self) -> None:
        """Forget what kept messages from coming to a recipient: the body sends all the same."""
        self._raised.pop(NOBODY, None)

    def passes(self, error: Exception) -> bool:
        """Tell whether ``error`` came from a hand-over that another try may mend."""
        return any(raised.passes for raised in self._raised.values() if raised.error is error)

    def owed(self, deliveries: Sequence[Delivery]) -> Exception | None:
        """Return the error of a body that must not end well with ``deliveries`` like these, or None.

        That is while somebody is neither served nor refused for good, or where nobody at all was served. Of
        several errors it is one that may pass, and of these the one that asks for the longest wait.
        """
        left = self.left(deliveries)
        owed = [raised for raised, status in left if not _is_final(raised, status)]
        if not owed and not any(d.status is DeliveryStatus.ACCEPTED for d in deliveries):
            owed = [raised for raised, _ in left]
        return max(reversed(owed), key=_urgency).error if owed else None

    def left(self, deliveries: Sequence[Delivery]) -> list[tuple[Raised, DeliveryStatus | None]]:
        """Return the errors about recipients whom ``deliveries`` do not show as served, with their statuses."""
        known = {(d.part, d.recipient.digest): d.status for d in deliveries}
        left = [(raised, known.get(place)) for place, raised in self._raised.items()]
        return [(raised, status) for raised, status in left if status is not DeliveryStatus.ACCEPTED]


def _is_final(raised: Raised, status: DeliveryStatus | None) -> bool:
    """Tell whether nothing is owed any more: a refusal for good, or as good as that."""
    return status is DeliveryStatus.REFUSED or (status is None and raised.is_final)


def _urgency(raised: Raised) -> tuple[bool, float]:
    return raised.passes, getattr(raised.error, "retry_after", None) or 0.0
