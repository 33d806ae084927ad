"""Number the messages of one body, so that a body that runs again finds its own deliveries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..exceptions import KeyFieldError
from ..ledger.entry import Delivery, Recipient
from ..ledger.outcomes import Target
from ..ledger.status import DeliveryStatus

_LONGEST_NAME = 100


class Parts:
    """What a body has sent so far, in this run of it."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._by_content: dict[int, dict[str, str]] = {}

    def targets(
        self, recipients: Sequence[Recipient], content: int, known: Mapping[tuple[str, str], Delivery]
    ) -> list[Target]:
        """Return what tells the deliveries of the next message apart within the body.

        A recipient's n-th message is its part n: bodies that run again in another order find their deliveries
        all the same. ``content`` is the message's own: sent again before everybody has accepted it, by what is
        ``known`` of each part and digest, it is the same message.
        """
        parts = self._unfinished(content, known)
        for who in recipients:
            if who.digest not in parts:
                parts[who.digest] = str(self._seen[who.digest])
                self._seen[who.digest] += 1
        self._by_content[content] = parts
        return [(parts[who.digest], who) for who in recipients]

    def _unfinished(self, content: int, known: Mapping[tuple[str, str], Delivery]) -> dict[str, str]:
        """Return part by recipient of a message that this body has sent already and not everybody accepted."""
        parts = self._by_content.get(content, {})
        rows = [known.get((part, digest)) for digest, part in parts.items()]
        finished = all(row is not None and row.status is DeliveryStatus.ACCEPTED for row in rows)
        return {} if finished else dict(parts)


def named_targets(recipients: Sequence[Recipient], name: str, email_type: str) -> list[Target]:
    """Return the same for a message with a ``name``. Raises `KeyFieldError` for one that no store can keep."""
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise KeyFieldError(
            f"{email_type}: idempotency_part has to be 1 to {_LONGEST_NAME} printable characters"
        )
    return [(name, who) for who in recipients]
