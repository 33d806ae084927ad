"""Every decision about a logical email, over the primitives of a `Store`.

Each method is at most one write for the usual case. A change is a compare-and-swap on the entry's version,
so whoever holds an outdated entry is refused with `ClaimLost` and can do no harm, however late it wakes up.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from .entry import After, Attempt, Delivery, Entry, Recipient
from .errors import ClaimLost, LedgerUnavailable
from .status import TRANSITIONS, DeliveryStatus, Status
from .store import Store, Stored

logger = logging.getLogger("celery_idempotent")

MAX_ROUNDS = 16
"""How often a claim looks again when others change the entry under it, before it says Busy."""
BUSY_SECONDS = 1.0
MAX_PARTICIPANTS = 256


class Verdict(Enum):
    """What a verifier found out about a hand-over whose reply was lost."""

    SENT = "sent"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"


Target = tuple[str, Recipient]
"""One recipient of one message: the message's part, and who."""

Verifier = Callable[[Entry], Verdict]


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one email type. Durations are seconds."""

    lease: float = 60.0
    send_timeout: float = 60.0
    window: float | None = None
    """A new send is allowed this long after the last acceptance (sliding); None: never."""
    in_doubt: str | Verifier = "hold"
    raise_on_mismatch: bool = False
    opaque: bool = False
    """The body sends by means that the ledger cannot see: the claim is the write-ahead."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a key, and for what."""

    key: str
    email_type: str
    task_id: str
    worker: str = ""
    label: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Acquired:
    """The asker holds the claim: it may go on."""

    entry: Entry
    mismatch: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Done before (or cancelled): succeed with the entry's recorded result."""

    entry: Entry
    mismatch: bool = False
    settled: bool = False
    """True if it was this claim that found out, by a verifier."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else is at it: ask again after ``retry_after`` seconds."""

    entry: Entry
    retry_after: float


@dataclass(frozen=True, slots=True)
class Held:
    """A hand-over's outcome is unknown and the rules say to wait for a decision."""

    entry: Entry
    found: bool = False
    """True if it was this claim that found the deadline passed."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key exists with other content, and the rules say to refuse that."""

    entry: Entry


Outcome = Acquired | Duplicate | Busy | Held | Mismatch


@dataclass(frozen=True, slots=True)
class Reply:
    """How the hand-over ended for one recipient."""

    status: DeliveryStatus
    code: int | None = None
    detail: str = ""


class Ledger:
    """Claims keys and records what became of them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- the claim ---------------------------------------------------------------------------------------

    def claim(self, asker: Asker, policy: Policy) -> Outcome:
        """Claim the key for ``asker``. One round trip when the key is new or already sent.

        Raises `LedgerUnavailable`.
        """
        claim_id = secrets.token_urlsafe(8)
        try:
            return self._claim(claim_id, asker, policy)
        except LedgerUnavailable:
            if policy.opaque:
                self._unclaim(claim_id, asker)
            raise

    def _unclaim(self, claim_id: str, asker: Asker) -> None:
        """Take back an opaque claim that may have been stored: its body has not begun, so there is no doubt."""
        try:
            found = self.store.get(asker.key)
            if found is not None and found.entry.claim_id == claim_id:
                self.release(found.entry, Policy(), None, "LedgerUnavailable")
        except (LedgerUnavailable, ClaimLost) as error:
            logger.warning("%s: the claim may stand until its deadline: %s", asker.email_type, error)

    def _claim(self, claim_id: str, asker: Asker, policy: Policy) -> Outcome:
        found = self._insert(claim_id, asker, policy)
        for _ in range(MAX_ROUNDS):
            if found.entry.claim_id == claim_id:
                return Acquired(found.entry)
            outcome = self._decide(found, claim_id, asker, policy)
            if outcome is not None:
                return outcome
            found = self.store.get(asker.key) or self._insert(claim_id, asker, policy)
        return Busy(found.entry, BUSY_SECONDS)

    def done(self, asker: Asker, policy: Policy) -> Entry | None:
        """Return the entry if a claim by ``asker`` would be a duplicate of what is done; one read, no write.

        Raises `LedgerUnavailable`.
        """
        found = self.store.get(asker.key)
        if found is None or found.entry.status is not Status.SENT:
            return None
        if policy.raise_on_mismatch and differs(found.entry, asker):
            return None
        return None if _starts_new_generation(found.entry, found.now, asker, policy) else found.entry

    def _insert(self, claim_id: str, asker: Asker, policy: Policy) -> Stored:
        fresh = _taken(_blank(asker), claim_id, asker, policy)
        attempt = _opaque_attempt(fresh, asker, policy)
        return self.store.insert(replace(fresh, history=_with_attempt(fresh, attempt)), attempt)

    def _decide(self, found: Stored, claim_id: str, asker: Asker, policy: Policy) -> Outcome | None:
        """Apply the table of what a claim finds; None when the entry changed meanwhile."""
        entry, now = found.entry, found.now
        mismatch = differs(entry, asker)
        if _starts_new_generation(entry, now, asker, policy):
            return self._acquire(entry, claim_id, asker, policy, becoming=_next_generation(entry))
        if mismatch and policy.raise_on_mismatch:
            return Mismatch(entry)
        match entry.status:
            case Status.SENT | Status.CANCELLED:
                return self._duplicate(entry, asker, policy, mismatch)
            case Status.SENDING if _running(entry, now):
                return Busy(entry, _remaining(entry, now))
            case Status.SENDING:
                ended = _ended(entry, DeliveryStatus.IN_DOUBT)
                doubtful = self._swap(_doubtful(entry), entry, ended)
                return self._in_doubt(doubtful, claim_id, asker, policy, mismatch, True) if doubtful else None
            case Status.IN_DOUBT:
                return self._in_doubt(entry, claim_id, asker, policy, mismatch)
            case Status.CLAIMED | Status.RELEASED if entry.owner != asker.task_id and _running(entry, now):
                return Busy(entry, _remaining(entry, now))
            case _:
                return self._acquire(entry, claim_id, asker, policy, mismatch)

    def _acquire(
        self,
        entry: Entry,
        claim_id: str,
        asker: Asker,
        policy: Policy,
        mismatch: bool = False,
        becoming: Entry | None = None,
    ) -> Acquired | None:
        wanted = _taken(becoming or entry, claim_id, asker, policy)
        taken = self._swap(wanted, entry, _opaque_attempt(wanted, asker, policy))
        return Acquired(taken, mismatch) if taken else None

    def _duplicate(self, entry: Entry, asker: Asker, policy: Policy, mismatch: bool) -> Duplicate | None:
        known = asker.task_id == entry.owner or asker.task_id in entry.participants
        if policy.window is None or known or entry.status is Status.CANCELLED:
            return Duplicate(entry, mismatch)
        # With a window, a redelivery of this very duplicate must find itself after the window, too.
        noted = self._swap(replace(entry, participants=_with(entry, asker.task_id)), entry)
        return Duplicate(noted, mismatch) if noted else None

    def _in_doubt(
        self, entry: Entry, claim_id: str, asker: Asker, policy: Policy, mismatch: bool, found: bool = False
    ) -> Outcome | None:
        verdict = self._verdict(entry, policy)
        if verdict is Verdict.UNKNOWN:
            return Held(entry, found)
        if verdict is Verdict.SENT and policy.opaque:
            sent = replace(entry, status=Status.SENT, deadline=None, sent_at=After())
            stored = self._swap(sent, entry)
            return Duplicate(stored, mismatch, settled=True) if stored else None
        status = DeliveryStatus.ACCEPTED if verdict is Verdict.SENT else DeliveryStatus.DEFERRED
        return self._acquire(entry, claim_id, asker, policy, mismatch, becoming=_resolved(entry, status))

    def _verdict(self, entry: Entry, policy: Policy) -> Verdict:
        if policy.in_doubt == "resend":
            return Verdict.NOT_SENT
        if isinstance(policy.in_doubt, str):
            return Verdict.UNKNOWN
        try:
            return policy.in_doubt(entry)
        except Exception:
            logger.exception("the verifier of %s raised; the entry stays in doubt", entry.email_type)
            return Verdict.UNKNOWN

    # -- the hand-over -----------------------------------------------------------------------------------

    def begin(
        self, entry: Entry, targets: Iterable[Target], message_id: str, asker: Asker, policy: Policy
    ) -> Entry:
        """Write ahead that one message is about to be handed over to ``targets``.

        Raises `ClaimLost` if another run took over (nothing may be sent then), `LedgerUnavailable`.
        """
        rows = [Delivery(part, who, DeliveryStatus.SENDING, message_id) for part, who in targets]
        changed = replace(
            entry,
            status=Status.SENDING,
            deadline=After(policy.send_timeout),
            attempts=entry.attempts + 1,
            deliveries=_merged(entry, rows),
        )
        return self._must_swap(changed, entry, _attempt(changed, asker, rows))

    def withdraw(
        self, entry: Entry, targets: Iterable[Target], message_id: str, asker: Asker, policy: Policy
    ) -> Entry:
        """Take back a `begin` on ``entry`` that may or may not have been stored; nothing was sent.

        Raises `ClaimLost` if another run took over, `LedgerUnavailable`.
        """
        current = self.store.get(entry.key)
        if current is None or current.entry.claim_id != entry.claim_id:
            raise _lost(entry, current.entry if current else None)
        # Written even where it was not stored: it may still be on its way, and is refused then.
        unsent = Reply(DeliveryStatus.DEFERRED, None, "interrupted before the payload")
        return self.settle(current.entry, dict.fromkeys(targets, unsent), message_id, asker, policy)

    def settle(
        self, entry: Entry, replies: Mapping[Target, Reply], message_id: str, asker: Asker, policy: Policy
    ) -> Entry:
        """Record how a hand-over ended for each target, or refusals that came before it.

        The entry is CLAIMED again with a fresh lease, or IN_DOUBT. Raises `ClaimLost`, `LedgerUnavailable`.
        """
        rows = [
            Delivery(part, who, reply.status, message_id, reply.code, reply.detail[:200])
            for (part, who), reply in replies.items()
        ]
        doubt = any(row.status is DeliveryStatus.IN_DOUBT for row in rows)
        accepted = any(row.status is DeliveryStatus.ACCEPTED for row in rows)
        # Refused before there was anything to write ahead: an attempt all the same.
        attempts = entry.attempts if entry.status is Status.SENDING else entry.attempts + 1
        changed = replace(
            entry,
            status=Status.IN_DOUBT if doubt else Status.CLAIMED,
            deadline=None if doubt else After(policy.lease),
            attempts=attempts,
            sent_at=After() if accepted else entry.sent_at,
            deliveries=_merged(entry, rows),
        )
        attempt = replace(_attempt(changed, asker, rows), ended_at=After(), **_summary(rows))
        return self._must_swap(changed, entry, attempt)

    # -- the end of a run --------------------------------------------------------------------------------

    def complete(self, entry: Entry, result: Any) -> Entry:
        """Record that the task succeeded with ``result``. Raises `ClaimLost`, `LedgerUnavailable`."""
        opaque = entry.status is Status.SENDING
        changed = replace(
            entry,
            status=Status.SENT,
            deadline=None,
            result=result,
            error="",
            sent_at=After() if opaque or entry.sent_at is None else entry.sent_at,
        )
        return self._must_swap(changed, entry, _ended(entry, DeliveryStatus.ACCEPTED) if opaque else None)

    def release(self, entry: Entry, policy: Policy, retry_in: float | None = None, error: str = "") -> Entry:
        """Free the claim; with ``retry_in`` seconds, keep it for the owner until then plus a lease.

        An entry in doubt stays in doubt. Raises `ClaimLost`, `LedgerUnavailable`.
        """
        deadline = None if retry_in is None else After(max(retry_in, 0.0) + policy.lease)
        return self._end(entry, Status.RELEASED, deadline, error)

    def fail(self, entry: Entry, error: str) -> Entry:
        """Give up. An entry in doubt stays in doubt. Raises `ClaimLost`, `LedgerUnavailable`."""
        return self._end(entry, Status.FAILED, None, error)

    def doubt(self, entry: Entry, error: str) -> Entry:
        """Record that an opaque body ended with an unknown outcome. Raises as the others do."""
        changed = replace(_doubtful(entry), error=error)
        return self._must_swap(changed, entry, _ended(entry, DeliveryStatus.IN_DOUBT))

    def _end(self, entry: Entry, status: Status, deadline: After | None, error: str) -> Entry:
        if entry.status is Status.IN_DOUBT:
            return entry
        if entry.status is Status.SENDING and entry.deliveries:  # cut off in a hand-over that was not settled
            return self.doubt(entry, error)
        attempt = _ended(entry, DeliveryStatus.DEFERRED) if entry.status is Status.SENDING else None
        return self._must_swap(replace(entry, status=status, deadline=deadline, error=error), entry, attempt)

    # -- writing -----------------------------------------------------------------------------------------

    def _swap(self, changed: Entry, entry: Entry, attempt: Attempt | None = None) -> Entry | None:
        assert changed.status in TRANSITIONS[entry.status], f"{entry.status} -> {changed.status}"
        before = frozenset(entry.deliveries)
        rows = [delivery for delivery in changed.deliveries if delivery not in before]
        changed = replace(changed, history=_with_attempt(changed, attempt))
        stored = self.store.swap(changed, entry.version, attempt, rows)
        return stored.entry if stored else None

    def _must_swap(self, changed: Entry, entry: Entry, attempt: Attempt | None = None) -> Entry:
        swapped = self._swap(changed, entry, attempt)
        if swapped is not None:
            return swapped
        stored = self.store.get(entry.key)
        current = stored.entry if stored else None
        if current is None and _has_left(changed):
            # The store has forgotten an entry (a failover, a restored backup), but this process has not.
            return self.store.insert(replace(changed, version=entry.version + 1), attempt).entry
        if current is not None and current.claim_id == entry.claim_id:
            if _is_same_write(current, changed):
                return current  # an earlier try of this very write, whose confirmation was lost
            # Somebody saw the deadline pass, but nobody has acted on it: the outcome is known after all.
            late = current.status is Status.IN_DOUBT and entry.status is Status.SENDING
            went_back = current.version < entry.version
            if late or went_back:
                return self._must_swap(replace(changed, version=current.version), current, attempt)
        raise _lost(entry, current)


def _is_same_write(stored: Entry, wanted: Entry) -> bool:
    return stored.version == wanted.version + 1 and all(
        getattr(stored, name) == getattr(wanted, name)
        for name in ("status", "generation", "attempts", "deliveries", "result")
    )


def _has_left(entry: Entry) -> bool:
    """Tell whether a mail server has, or may have, something of ``entry``."""
    left = (DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT)
    return any(delivery.status in left for delivery in entry.deliveries)


def _lost(entry: Entry, current: Entry | None) -> ClaimLost:
    """Return the error of a run whose ``entry`` is outdated; it names the owner of a newer claim, if any."""
    newer = current is not None and current.claim_id != entry.claim_id
    owner = current.owner if current is not None and newer else None
    return ClaimLost(f"{entry.email_type}: the claim on {entry.key} is no longer this run's", owner)


def differs(entry: Entry, asker: Asker) -> bool:
    """Tell whether ``asker`` wants other content than what was sent or is about to be."""
    if entry.status in (Status.FAILED, Status.RELEASED) and not any(
        d.status is DeliveryStatus.ACCEPTED for d in entry.deliveries
    ):
        return False  # nobody has got the old content, so the new one may be the mended one
    known = entry.fingerprint and asker.fingerprint and entry.owner != asker.task_id
    return bool(known and entry.fingerprint != asker.fingerprint)


def _blank(asker: Asker) -> Entry:
    return Entry(
        key=asker.key,
        email_type=asker.email_type,
        status=Status.CLAIMED,
        owner=asker.task_id,
        label=asker.label,
        begun_at=After(),
        created_at=After(),
    )


def _taken(entry: Entry, claim_id: str, asker: Asker, policy: Policy) -> Entry:
    return replace(
        entry,
        claim_id=claim_id,
        status=Status.SENDING if policy.opaque else Status.CLAIMED,
        owner=asker.task_id,
        deadline=After(policy.send_timeout if policy.opaque else policy.lease),
        fingerprint=asker.fingerprint,
        error="",
        attempts=entry.attempts + (1 if policy.opaque else 0),
        participants=_with(entry, asker.task_id) if policy.window is not None else entry.participants,
    )


def _next_generation(entry: Entry) -> Entry:
    return replace(
        entry,
        generation=entry.generation + 1,
        attempts=0,
        deliveries=(),
        history=(),
        result=None,
        begun_at=After(),
        sent_at=None,
    )


def _starts_new_generation(entry: Entry, now: datetime, asker: Asker, policy: Policy) -> bool:
    if entry.status is not Status.SENT or policy.window is None or not isinstance(entry.sent_at, datetime):
        return False
    took_part = asker.task_id == entry.owner or asker.task_id in entry.participants
    return not took_part and now >= entry.sent_at + timedelta(seconds=policy.window)


def _with(entry: Entry, task_id: str) -> tuple[str, ...]:
    if task_id in entry.participants:
        return entry.participants
    return (*entry.participants, task_id)[-MAX_PARTICIPANTS:]


def _running(entry: Entry, now: datetime) -> bool:
    return isinstance(entry.deadline, datetime) and now < entry.deadline


def _remaining(entry: Entry, now: datetime) -> float:
    assert isinstance(entry.deadline, datetime)
    return (entry.deadline - now).total_seconds()


def _doubtful(entry: Entry) -> Entry:
    """Return ``entry`` in doubt, with what was being handed over."""
    return replace(
        entry,
        status=Status.IN_DOUBT,
        deadline=None,
        deliveries=tuple(
            replace(d, status=DeliveryStatus.IN_DOUBT) if d.status is DeliveryStatus.SENDING else d
            for d in entry.deliveries
        ),
    )


def _resolved(entry: Entry, status: DeliveryStatus) -> Entry:
    """Return ``entry`` with its doubtful deliveries settled as ``status``."""
    return replace(
        entry,
        sent_at=After() if status is DeliveryStatus.ACCEPTED else entry.sent_at,
        deliveries=tuple(
            replace(d, status=status, detail="resolved from in doubt")
            if d.status is DeliveryStatus.IN_DOUBT
            else d
            for d in entry.deliveries
        ),
    )


def _merged(entry: Entry, rows: Iterable[Delivery]) -> tuple[Delivery, ...]:
    merged = {(d.part, d.recipient.digest): d for d in entry.deliveries}
    merged.update({(d.part, d.recipient.digest): d for d in rows})
    return tuple(merged.values())


def _attempt(entry: Entry, asker: Asker, rows: Sequence[Delivery] = ()) -> Attempt:
    return Attempt(
        number=entry.attempts,
        generation=entry.generation,
        part=rows[0].part if rows else "",
        task_id=asker.task_id,
        worker=asker.worker,
        message_id=rows[0].message_id if rows else "",
        recipients=len(rows),
        started_at=After(),
    )


def _with_attempt(entry: Entry, attempt: Attempt | None) -> tuple[Attempt, ...]:
    """Return the history of ``entry`` with ``attempt``, or with its end where its start is known."""
    if attempt is None:
        return entry.history
    known = {(a.generation, a.number): a for a in entry.history}
    place = (attempt.generation, attempt.number)
    if place in known:
        attempt = replace(
            known[place],
            ended_at=attempt.ended_at,
            outcome=attempt.outcome,
            code=attempt.code,
            detail=attempt.detail,
        )
    return tuple((known | {place: attempt}).values())


def _opaque_attempt(entry: Entry, asker: Asker, policy: Policy) -> Attempt | None:
    return _attempt(entry, asker) if policy.opaque else None


def _ended(entry: Entry, outcome: DeliveryStatus) -> Attempt:
    """Return the end of the newest attempt; who began it stays as it was written then."""
    begun = Asker(entry.key, entry.email_type, entry.owner)
    return replace(_attempt(entry, begun), ended_at=After(), outcome=outcome)


_WORST_FIRST = (
    DeliveryStatus.IN_DOUBT,
    DeliveryStatus.ACCEPTED,
    DeliveryStatus.DEFERRED,
    DeliveryStatus.REFUSED,
)


def _summary(rows: Sequence[Delivery]) -> dict[str, Any]:
    """Return outcome, code and detail of an attempt from those of its recipients."""
    for status in _WORST_FIRST:
        for row in rows:
            if row.status is status:
                return {"outcome": status, "code": row.code, "detail": row.detail}
    return {"outcome": DeliveryStatus.DEFERRED}
