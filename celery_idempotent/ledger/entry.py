"""The records of the ledger: one `Entry` per key, its `Delivery` rows, and one `Attempt` per hand-over.

Times are aware UTC datetimes of the store's clock. A writer does not know that clock, so it writes
``After(seconds)`` and the store puts in its own now plus that many seconds, in the same write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from .audit import Intervention
from .status import DeliveryStatus, Status

FAILED = "failed"
REFUSING = frozenset({"rejected", FAILED})
"""Events of a provider that has taken the mail and will not deliver it to this recipient."""


@dataclass(frozen=True, slots=True)
class After:
    """A time that the store fills in: its own now plus ``seconds``."""

    seconds: float = 0.0


Moment = datetime | After
"""A time as it is written: known, or to be filled in by the store."""


DeliveryKey = tuple[str, str]
"""Part and recipient digest of a delivery."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """An address as the ledger keeps it: a keyed digest to compare, a form to show."""

    digest: str
    shown: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recipient of one message (``part``) of the entry's current generation."""

    part: str
    recipient: Recipient
    status: DeliveryStatus
    message_id: str
    code: int | None = None
    """The server's reply code (RFC 5321 §4.2), where there was one."""
    detail: str = ""
    events: tuple[tuple[str, datetime], ...] = ()
    """What the provider told later: kind and time, each kind once, in order of time."""

    @property
    def key(self) -> DeliveryKey:
        """Part and recipient digest, which tell the deliveries of a body apart."""
        return self.part, self.recipient.digest

    def is_known(self) -> bool:
        """Tell whether its end is known: accepted, or refused for good."""
        return self.status in (DeliveryStatus.ACCEPTED, DeliveryStatus.REFUSED)

    def proven_status(self) -> DeliveryStatus:
        """Return the status by what the provider has told, where nothing else is known."""
        kinds = {kind for kind, _ in self.events}
        if not kinds:
            return self.status
        return DeliveryStatus.REFUSED if kinds <= REFUSING else DeliveryStatus.ACCEPTED


@dataclass(frozen=True, slots=True)
class Attempt:
    """One hand-over: written before it, finished after it, told apart by ``(generation, number)``."""

    number: int
    generation: int
    part: str
    task_id: str
    worker: str
    message_id: str
    recipients: int
    started_at: Moment
    ended_at: Moment | None = None
    outcome: DeliveryStatus = DeliveryStatus.SENDING
    code: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """Everything that a decision about one key needs. Immutable: a change is a new one and a swap."""

    key: str
    email_type: str
    status: Status
    owner: str
    """Id of the task that claimed last; of a SENT entry, of the task that sent it."""
    claim_id: str = ""
    """Random token of the claim: tells a write of one's own, whose confirmation was lost, from another's."""
    version: int = 1
    """Fencing token: grows by one with every swap; a swap that names an older one is refused."""
    generation: int = 1
    """Which deliberate sending of this key this is; 1 for the first."""
    deadline: Moment | None = None
    """CLAIMED: end of the lease. SENDING: end of the hand-over. RELEASED: reserved for the owner until.

    SENT and `unfinished`: since when that is so; nothing happens by it.
    """
    label: str = ""
    """The key fields as shown to operators, addresses masked."""
    fingerprint: str = ""
    attempts: int = 0
    """Hand-overs in this generation."""
    arrivals: int = 1
    """How often this key was asked for. Counted by the store, not by `swap`."""
    result: Any = None
    """The JSON-able result of the task, replayed to duplicates."""
    error: str = ""
    """Class name of the last error; never its text, which may quote the mail."""
    participants: tuple[str, ...] = ()
    """Task ids that took part in this generation, for tasks that may send again; the newest last."""
    past: tuple[str, ...] = ()
    """Task ids that took part in earlier generations, their owners at the end: they never send again."""
    begun_at: Moment | None = None
    """When this generation was first claimed: the ``Date`` of its messages."""
    sent_at: Moment | None = None
    """When the last acceptance was recorded: a sliding window counts from here."""
    created_at: Moment | None = None
    deliveries: tuple[Delivery, ...] = ()
    """Deliveries of the current generation."""
    provider_key: str = ""
    """The idempotency key under which a provider may have what is being handed over or in doubt."""
    recognised_until: Moment | None = None
    """Until when the provider recognises it: counted from the first hand-over under it."""
    offers: int = 0
    """Attempts since the first hand-over under `provider_key`, that one included."""
    sealed: str = ""
    """What was handed over under it, encrypted, to be offered again as it was. Erased with the doubt."""
    history: tuple[Attempt, ...] = ()
    """Hand-overs of the current generation, in stores that keep them with the entry; the database has rows."""
    audit: tuple[Intervention, ...] = ()
    """What operators decided, in all generations; the newest last."""
    unfinished: bool = False
    """SENT by a proof or a decision, and no run came to its body's end: the owner may still finish it."""

    # -- its deadline --------------------------------------------------------------------------------------

    def is_running(self, now: datetime) -> bool:
        """Tell whether the deadline is still to come."""
        return isinstance(self.deadline, datetime) and now < self.deadline

    def remaining(self, now: datetime) -> float:
        """Return the seconds until the deadline. Raises `ValueError` where there is none."""
        if not isinstance(self.deadline, datetime):
            raise ValueError(f"{self.key} has no deadline")
        return (self.deadline - now).total_seconds()

    # -- its deliveries ------------------------------------------------------------------------------------

    def doubtful_deliveries(self) -> tuple[Delivery, ...]:
        """Return the deliveries in doubt; where there is a `provider_key`, they were handed over under it."""
        return tuple(d for d in self.deliveries if d.status is DeliveryStatus.IN_DOUBT)

    def is_unsettled(self) -> bool:
        """Tell whether there is a delivery whose outcome is not known."""
        unknown = (DeliveryStatus.SENDING, DeliveryStatus.IN_DOUBT)
        return any(delivery.status in unknown for delivery in self.deliveries)

    def has_left(self) -> bool:
        """Tell whether a mail server has, or may have, something of this email."""
        if self.status in (Status.SENT, Status.IN_DOUBT):
            return True  # also of an opaque body, which has no deliveries
        left = (DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT)
        return any(delivery.status in left for delivery in self.deliveries)

    # -- who asked for it ----------------------------------------------------------------------------------

    def has_participant(self, task_id: str) -> bool:
        """Tell whether the task ``task_id`` took part in this generation or in an earlier one."""
        return task_id == self.owner or task_id in self.participants or task_id in self.past

    def is_to_finish(self, task_id: str) -> bool:
        """Tell whether this is SENT, and the task ``task_id`` has still to come to the end of its body."""
        return self.status is Status.SENT and self.unfinished and self.owner == task_id

    # -- its provider's key --------------------------------------------------------------------------------

    def is_recognised(self, now: datetime, seconds: float) -> bool:
        """Tell whether what is in doubt may be offered again, if that takes no longer than ``seconds``."""
        until = self.recognised_until
        if not self.provider_key or not isinstance(until, datetime):
            return False
        return now + timedelta(seconds=seconds) <= until

    def without_provider_key(self) -> Entry:
        """Return the entry without provider key and content: what is in doubt then can only be held."""
        return replace(self, provider_key="", recognised_until=None, offers=0, sealed="")

    def with_times(self, now: datetime) -> Entry:
        """Return the entry with every `After` filled in from the store's clock ``now``."""

        def filled(moment: Moment) -> datetime:
            return now + timedelta(seconds=moment.seconds) if isinstance(moment, After) else moment

        def at(moment: Moment | None) -> datetime | None:
            return None if moment is None else filled(moment)

        history = (replace(a, started_at=filled(a.started_at), ended_at=at(a.ended_at)) for a in self.history)
        return replace(
            self,
            deadline=at(self.deadline),
            begun_at=at(self.begun_at),
            sent_at=at(self.sent_at),
            created_at=at(self.created_at),
            recognised_until=at(self.recognised_until),
            history=tuple(history),
        )
