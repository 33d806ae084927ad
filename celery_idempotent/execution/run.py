"""One run of a body under a claim, shared by the queues' adapters and the mail backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..exceptions import ClaimLost, IdempotencyError, LedgerUnavailable
from ..ledger.claims import take_back
from ..ledger.entry import Delivery, DeliveryKey, Entry, Recipient
from ..ledger.held_claim import HeldClaim
from ..ledger.keys import digest
from ..ledger.ledger import Ledger
from ..ledger.outcomes import Reply, Target
from ..ledger.policy import Claimant, Policy
from ..ledger.provider_offers import Offer
from .message_parts import Parts, named_targets
from .retrying import retry_while_unavailable
from .unserved_recipients import UnservedRecipients

logger = logging.getLogger("celery_idempotent")

RELEASE_PATIENCE = 10.0
"""Seconds for which a release is tried; after that the lease frees the key."""

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
    """A held claim, patience with a ledger that does not answer, and what the body has sent so far."""

    def __init__(self, ledger: Ledger, held: HeldClaim) -> None:
        self.ledger = ledger
        self.held = held
        self.around: Run | None = None
        """The run whose body has called this one."""
        self.stopped_by: Exception | None = None
        """Set when nothing more may be sent by this run, even if the body swallows the error."""
        self.unserved = UnservedRecipients()
        """What hand-overs raised that the body may have swallowed."""
        self._parts = Parts()
        self._named: dict[str, frozenset[DeliveryKey]] = {}

    @property
    def entry(self) -> Entry:
        """The newest entry that this run knows."""
        return self.held.entry

    @property
    def claimant(self) -> Claimant:
        """Who runs the body."""
        return self.held.claimant

    @property
    def policy(self) -> Policy:
        """By which rules."""
        return self.held.policy

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

    def named(self, keys: Iterable[DeliveryKey], names: Iterable[str]) -> str:
        """Return the first of ``names`` that no other message of this body has, and keep it for ``keys``.

        A body that runs again in another order gives a message the parts of another one, and so its name. Two
        of one name are one to receivers that suppress duplicates.
        """
        own, first = frozenset(keys), ""
        for name in names:
            first = first or name
            if self._named.setdefault(name, own) & own:
                return name
        return first

    def known(self) -> dict[tuple[str, str], Delivery]:
        """Return the deliveries so far, by part and recipient digest."""
        return {d.key: d for d in self.entry.deliveries}

    def begin(
        self,
        targets: Sequence[Target],
        message_id: str,
        offer: Offer | None = None,
        waiting: Sequence[Target] = (),
    ) -> None:
        """Write ahead, as `HeldClaim.begin`; a claim that was lost to a mere claim is taken back.

        Raises `ClaimLost` or `LedgerUnavailable`: nothing may be sent then.
        """
        with self._stopping():
            began = time.monotonic()
            try:
                try:
                    self.held.begin(targets, message_id, offer, waiting)
                except ClaimLost as lost:
                    self._take_back(lost)
                    self.held.begin(targets, message_id, offer, waiting)
                self._refuse_if_slow(began)
            except (ClaimLost, TakenBack):
                raise
            except Exception:
                self._withdraw(targets, message_id)
                raise

    def _take_back(self, lost: ClaimLost) -> None:
        """Claim again, unless ``lost`` says for good; raise `TakenBack` where somebody has sent meanwhile."""
        before = self.entry.deliveries
        take_back(self.held, lost)
        if self.entry.deliveries != before:
            raise TakenBack from lost

    def _refuse_if_slow(self, began: float) -> None:
        """Raise `LedgerUnavailable` if the write-ahead took so long that its deadline may have passed."""
        if time.monotonic() - began > self.policy.send_timeout:
            raise LedgerUnavailable(
                f"{self.claimant.email_type}: the write-ahead took longer than send_timeout"
            )

    def begin_again(self, served: Sequence[Target]) -> None:
        """Write ahead that what is in doubt goes out once more. Raises as `begin`, and `DeliveryInDoubt`."""
        with self._stopping():
            began = time.monotonic()
            self.held.begin_again(served)
            self._refuse_if_slow(began)

    def close_offer(self) -> None:
        """Give up the provider key of what is in doubt, unless the rules hold the doubt anyway.

        Raises `ClaimLost` if somebody has settled it meanwhile, `LedgerUnavailable`.
        """
        if self.policy.in_doubt == "hold" or not self.entry.provider_key:
            return
        with self._stopping():
            retry_while_unavailable(self.held.close_offer, RELEASE_PATIENCE)

    def _withdraw(self, targets: Sequence[Target], message_id: str) -> None:
        """Take a write-ahead back whose confirmation did not arrive: stored or not, nothing goes out now."""
        try:
            self._record(lambda: self.held.withdraw(targets, message_id), RELEASE_PATIENCE)
        except IdempotencyError as error:
            name = self.claimant.email_type
            logger.warning("%s: the write-ahead may stand until its deadline: %s", name, error)

    def settle(self, replies: Mapping[Target, Reply], message_id: str) -> None:
        """Record outcomes; while the ledger does not answer, try again."""
        with self._stopping():
            struck = self._record(lambda: self.held.settle(replies, message_id))
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
            self._record(lambda: self.held.complete(result))
        except ClaimLost as lost:
            take_back(self.held, lost)
            self._record(lambda: self.held.complete(result))
        except IdempotencyError:
            raise
        except Exception:
            logger.exception("%s: the result cannot be kept, so duplicates get None", self.claimant.email_type)
            self._record(lambda: self.held.complete(None))
        self.ledger.show(self.entry)

    def release(self, error: str, retry_in: float | None = None) -> None:
        """Free the claim, keeping it for this task's own retry if one is due in ``retry_in`` seconds."""
        self._end(lambda: self.held.release(error, retry_in), RELEASE_PATIENCE)

    def fail(self, error: str) -> None:
        """Record that the task gave up."""
        self._end(lambda: self.held.fail(error), RELEASE_PATIENCE)

    def doubt(self, error: str) -> None:
        """Record that an opaque body ended with an unknown outcome."""
        self._end(lambda: self.held.doubt(error))

    def _end(self, write: Callable[[], Entry], patience: float | None = None) -> None:
        self._record(write, patience)
        self.ledger.show(self.entry)

    def _record(self, write: Callable[[], Entry], patience: float | None = None) -> Exception | None:
        """Store what has happened, and return the error that struck meanwhile, such as a soft time limit.

        What has happened has to be recorded whatever strikes, so the write is done once more then; the ledger
        recognises one that had been stored already, by the entry that it was to replace.
        """
        before = self.held.entry
        try:
            retry_while_unavailable(write, patience)
        except IdempotencyError:
            raise
        except Exception as struck:
            self.held.entry = before
            retry_while_unavailable(write, patience)
            return struck
        return None
