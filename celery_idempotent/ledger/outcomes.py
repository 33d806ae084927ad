"""The outcomes of a claim, and the replies that a hand-over got for each recipient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .entry import Entry, Recipient
from .status import DeliveryStatus

if TYPE_CHECKING:
    from .held_claim import HeldClaim

Target = tuple[str, Recipient]
"""One recipient of one message: the message's part, and who."""


@dataclass(frozen=True, slots=True)
class Acquired:
    """The claimant holds the claim: it may go on."""

    claim: HeldClaim
    mismatch: bool = False

    @property
    def entry(self) -> Entry:
        """The entry as it was claimed."""
        return self.claim.entry


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
