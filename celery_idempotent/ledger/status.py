"""The states of an entry and of a delivery: the one list that constraints, choices and docs derive from."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Status(str, Enum):
    """Where one logical email stands."""

    CLAIMED = "claimed"
    """One owner renders; its lease is running."""
    SENDING = "sending"
    """Written ahead: the payload is being handed over; the send deadline is running."""
    SENT = "sent"
    """The task succeeded and its result is recorded."""
    RELEASED = "released"
    """The attempt ended with nothing in flight; the next claim is free."""
    FAILED = "failed"
    """Given up: retries exhausted or refused for good."""
    IN_DOUBT = "in_doubt"
    """A hand-over's outcome is unknown."""
    CANCELLED = "cancelled"
    """Withdrawn by an operator; where the task has a window, for that long."""

    def __str__(self) -> str:
        return self.value


class DeliveryStatus(str, Enum):
    """Where one recipient of one message stands."""

    SENDING = "sending"
    """The payload is being handed over for this recipient."""
    ACCEPTED = "accepted"
    """The mail server took responsibility (2xx)."""
    DEFERRED = "deferred"
    """Refused for now (4xx): offered again by the next attempt."""
    REFUSED = "refused"
    """Refused for good (5xx): never offered again within the generation."""
    IN_DOUBT = "in_doubt"
    """The payload was released and no reply came."""

    def __str__(self) -> str:
        return self.value


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.CLAIMED: frozenset(
        {
            Status.CLAIMED,
            Status.SENDING,
            Status.SENT,
            Status.RELEASED,
            Status.FAILED,
            Status.IN_DOUBT,
            Status.CANCELLED,
        }
    ),
    Status.SENDING: frozenset(
        {
            Status.CLAIMED,
            Status.SENDING,
            Status.SENT,
            Status.RELEASED,
            Status.FAILED,
            Status.IN_DOUBT,
        }
    ),
    Status.SENT: frozenset({Status.SENT, Status.CLAIMED, Status.SENDING, Status.RELEASED}),
    Status.RELEASED: frozenset(Status),
    Status.FAILED: frozenset(
        {Status.CLAIMED, Status.SENDING, Status.RELEASED, Status.FAILED, Status.CANCELLED}
    ),
    Status.IN_DOUBT: frozenset(
        {
            Status.CLAIMED,
            Status.SENDING,
            Status.SENT,
            Status.RELEASED,
            Status.FAILED,
            Status.IN_DOUBT,
        }
    ),
    Status.CANCELLED: frozenset({Status.CLAIMED, Status.SENDING, Status.RELEASED, Status.CANCELLED}),
}
"""Which status may follow which. Every other change is refused with `TransitionForbidden`."""

IN_FLIGHT = frozenset({Status.CLAIMED, Status.SENDING})
"""Statuses that carry a running deadline and a holder."""

FINISHED = frozenset({Status.SENT, Status.FAILED, Status.CANCELLED})
"""Statuses that wait for nobody: they may be forgotten after a while, by `purge` or on request."""
UNFINISHED = frozenset(Status) - FINISHED
