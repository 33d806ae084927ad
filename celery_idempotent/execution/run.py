"""One execution of a body under a claim. What every task queue's adapter and the mail backend share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..exceptions import ClaimLost, IdempotencyError, LedgerUnavailable
from ..ledger.entry import Delivery, Entry, Recipient
from ..ledger.keys import digest
from ..ledger.ledger import Ledger
from ..ledger.outcomes import Acquired, Reply, Target
from ..ledger.policy import Claimant, Policy
from ..ledger.provider_offers import Offer
from ..ledger.status import DeliveryStatus
from .message_parts import Parts, named_targets
from .retrying import retry_while_unavailable
from .unserved_recipients import DeliveryKey, UnservedRecipients

logger = logging.getLogger("celery_idempotent")

RELEASE_PATIENCE = 10.0
"""Seconds for which a release is tried; after that the lease frees the key."""

NOT_YET = "not offered yet"

_current: ContextVar[Run | None] = ContextVar("celery_idempotent_run", default=None)


def current_run() -> Run | None:
    """Return the run whose body is executing in this context, or None."""
    return _current.get()


def is_inside(task_id: str) -> bool:
    """Tell whether this context is in the body of ``task_id``'s own run, however many calls deep."""
    run = _current.get()
    while run is not None and run.claimant.task_id != task_id:
        run = run.around
    return run is not None


class TakenBack(Exception):
    """Raised when a run took its claim back from one that has sent something meanwhile."""


class Run:
    """Holds the newest entry of a claim and writes to the ledger in its name."""

    def __init__(self, ledger: Ledger, claimant: Claimant, policy: Policy, entry: Entry) -> None:
        self.ledger = ledger
        self.claimant = claimant
        self.policy = policy
        self.entry = entry
        self.around: Run | None = None
        """The run whose body has called this one."""
        self.stopped_by: Exception | None = None
        """Set when nothing more may be sent by this run, even if the body swallows the error."""
        self.unserved = UnservedRecipients()
        """What hand-overs raised that the body may have swallowed."""
        self._parts = Parts()
        self._named: dict[str, frozenset[DeliveryKey]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the current run for the duration of the body."""
        self.around = _current.get()
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    # -- the hand-over -----------------------------------------------------------------------------------

    def targets(self, recipients: Sequence[Recipient], name: str | None, content: int) -> list[Target]:
        """Return what tells this message's deliveries apart within the body.

        That is its ``name`` if it has one, else its place and ``content``, as `Parts` has it. Raises
        `KeyFieldError` for a name that no store can keep.
        """
        if name is not None:
            return named_targets(recipients, name, self.claimant.email_type)
        return self._parts.targets(recipients, content, self.known())

    def message_id(self, target: Target, domain: str) -> str:
        """Return the Message-ID of the message whose first target this is: one for all attempts."""
        part, who = target
        return f"<{digest(self.entry.key, self.entry.generation, part, who.digest)[:40]}@{domain}>"

    def named(self, places: Iterable[DeliveryKey], names: Iterable[str]) -> str:
        """Return the first of ``names`` that no other message of this body has, and keep it for ``places``.

        A body that runs again in another order gives a message the parts of another one, and so its name. Two
        of one name are one to receivers that suppress duplicates.
        """
        own, first = frozenset(places), ""
        for name in names:
            first = first or name
            if self._named.setdefault(name, own) & own:
                return name
        return first

    def known(self) -> dict[tuple[str, str], Delivery]:
        """Return the deliveries so far, by part and recipient digest."""
        return {d.place: d for d in self.entry.deliveries}

    def begin(
        self,
        targets: Sequence[Target],
        message_id: str,
        offer: Offer | None = None,
        waiting: Sequence[Target] = (),
    ) -> None:
        """Write ahead. Raises `ClaimLost` or `LedgerUnavailable`: nothing may be sent then.

        ``waiting`` are those of the message who are not served yet: the end of a doubt must not be the end for
        them.
        """
        with self._stopping():
            began = time.monotonic()
            try:
                self._begin(targets, message_id, offer, waiting)
                if time.monotonic() - began > self.policy.send_timeout:
                    raise LedgerUnavailable(
                        f"{self.claimant.email_type}: the write-ahead took longer than send_timeout"
                    )
            except (ClaimLost, TakenBack):
                raise
            except Exception:
                self._withdraw(targets, message_id)
                raise

    def begin_again(self, served: Sequence[Target]) -> None:
        """Write ahead that what is in doubt goes out once more. Raises as `begin`, and `DeliveryInDoubt`."""
        with self._stopping():
            began = time.monotonic()
            self.entry = self.ledger.begin_again(self.entry, self.claimant, self.policy, served)
            if time.monotonic() - began > self.policy.send_timeout:
                raise LedgerUnavailable(
                    f"{self.claimant.email_type}: the write-ahead took longer than send_timeout"
                )

    def close_offer(self) -> None:
        """Give up the key of what is in doubt and cannot be offered under it, unless that is to be held.

        Raises `ClaimLost` if somebody has settled it meanwhile, `LedgerUnavailable`.
        """
        if self.policy.in_doubt == "hold" or not self.entry.provider_key:
            return
        with self._stopping():
            self.entry = retry_while_unavailable(lambda: self.ledger.close_offer(self.entry), RELEASE_PATIENCE)

    def _begin(
        self, targets: Sequence[Target], message_id: str, offer: Offer | None, waiting: Sequence[Target]
    ) -> None:
        def write() -> None:
            known = self.known()
            if new := [(part, who) for part, who in waiting if (part, who.digest) not in known]:
                rows = [Delivery(*one, DeliveryStatus.DEFERRED, message_id, detail=NOT_YET) for one in new]
                self.entry = self.ledger.remember(self.entry, rows)
            self.entry = self.ledger.begin(self.entry, targets, message_id, self.claimant, self.policy, offer)

        try:
            write()
        except ClaimLost as lost:
            before = self.entry
            self._take_back(lost)
            if self.entry.deliveries != before.deliveries:
                raise TakenBack from lost
            write()

    def _take_back(self, lost: ClaimLost) -> None:
        """Claim again after another run has taken over that has nothing in a hand-over; else raise ``lost``.

        Whoever is ready to send goes first. If it gave way, bodies that take longer than the lease, or than the
        broker keeps a message unacknowledged, would take the key from each other for ever.
        """
        if lost.owner is None:
            raise lost
        outcome: Any = None
        if lost.owner == self.claimant.task_id:
            outcome = self.ledger.claim(self.claimant, self.policy)
        else:
            outcome = self.ledger.overtake(self.entry, self.claimant, self.policy)
        if not isinstance(outcome, Acquired):
            raise lost
        known, before = outcome.entry.deliveries, self.entry.deliveries
        self.entry = outcome.entry
        places = {d.place for d in known}
        if forgotten := [d for d in before if d.place not in places]:
            self.entry = self.ledger.remember(self.entry, forgotten)

    def _withdraw(self, targets: Sequence[Target], message_id: str) -> None:
        """Take a write-ahead back whose confirmation did not arrive: stored or not, nothing goes out now."""

        def write() -> Entry:
            return self.ledger.withdraw(self.entry, targets, message_id, self.claimant, self.policy)

        try:
            self._record(write, RELEASE_PATIENCE)
        except IdempotencyError as error:
            logger.warning(
                "%s: the write-ahead may stand until its deadline: %s", self.claimant.email_type, error
            )

    def settle(self, replies: Mapping[Target, Reply], message_id: str) -> None:
        """Record outcomes, insisting while the ledger does not answer."""
        with self._stopping():
            struck = self._record(
                lambda: self.ledger.settle(self.entry, replies, message_id, self.claimant, self.policy)
            )
            if struck is not None:
                raise struck

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        try:
            yield
        except TakenBack:
            raise
        except Exception as error:
            self.stopped_by = error
            raise

    # -- the end -----------------------------------------------------------------------------------------

    def complete(self, result: Any) -> None:
        """Record success and the result to replay; a result that the store refuses is left out."""
        try:
            self._record(lambda: self.ledger.complete(self.entry, result))
        except ClaimLost as lost:
            self._take_back(lost)
            self._record(lambda: self.ledger.complete(self.entry, result))
        except IdempotencyError:
            raise
        except Exception:
            logger.exception("%s: the result cannot be kept, so duplicates get None", self.claimant.email_type)
            self._record(lambda: self.ledger.complete(self.entry, None))
        self.ledger.show(self.entry)

    def release(self, error: str, retry_in: float | None = None) -> None:
        """Free the claim, keeping it for this task's own retry if one is due in ``retry_in`` seconds."""
        self._end(lambda: self.ledger.release(self.entry, self.policy, retry_in, error), RELEASE_PATIENCE)

    def fail(self, error: str) -> None:
        """Record that the task gave up."""
        self._end(lambda: self.ledger.fail(self.entry, error), RELEASE_PATIENCE)

    def doubt(self, error: str) -> None:
        """Record that an opaque body ended with an unknown outcome."""
        self._end(lambda: self.ledger.doubt(self.entry, error))

    def _end(self, write: Callable[[], Entry], patience: float | None = None) -> None:
        self._record(write, patience)
        self.ledger.show(self.entry)

    def _record(self, write: Callable[[], Entry], patience: float | None = None) -> Exception | None:
        """Store what has happened, and return the error that struck meanwhile, such as a soft time limit.

        What has happened has to be recorded whatever strikes, so the write is done once more then; the ledger
        recognises one that had been stored already.
        """
        try:
            self.entry = retry_while_unavailable(write, patience)
        except IdempotencyError:
            raise
        except Exception as struck:
            self.entry = retry_while_unavailable(write, patience)
            return struck
        return None
