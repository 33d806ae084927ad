"""The primitives that a ledger needs of a store: each is atomic, and none decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from .entry import Attempt, Delivery, Entry


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as the store holds it, with the store's clock at that moment."""

    entry: Entry
    now: datetime
    inserted: bool = False
    """True if this very call wrote the entry."""


class Store(ABC):
    """Keeps entries. Each method is atomic and raises `LedgerUnavailable` when it cannot tell the outcome."""

    @abstractmethod
    def insert(self, entry: Entry, attempt: Attempt | None = None) -> Stored:
        """Write ``entry`` (and its first attempt) if its key is absent.

        Otherwise count the arrival and return the entry that is there, with ``inserted`` False.
        """

    @abstractmethod
    def swap(
        self,
        entry: Entry,
        version: int,
        attempt: Attempt | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> Stored | None:
        """Replace the stored entry by ``entry`` if its version is still ``version``, else return None.

        The stored version becomes ``version + 1``. ``attempt`` and ``deliveries`` are those of ``entry`` that
        differ from the stored ones, for stores that keep a row of each; an attempt is known by (generation,
        number), and its start stays as first written. ``arrivals`` and ``created_at`` are the store's own.
        """

    @abstractmethod
    def get(self, key: str) -> Stored | None:
        """Return the entry of ``key``, deliveries included, or None."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Stored]:
        """Return what is there of ``keys``, for a look around: deliveries and history may be left out."""
        found = {key: self.get(key) for key in keys}
        return {key: stored for key, stored in found.items() if stored is not None}

    @abstractmethod
    def due(self, limit: int = 100) -> Sequence[Entry]:
        """Return up to ``limit`` CLAIMED or SENDING entries whose deadline has passed, oldest first."""

    @abstractmethod
    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        """Remove up to ``limit`` SENT, FAILED or CANCELLED entries unchanged for ``older_than`` seconds.

        Return how many went, or would go if it is a ``dry_run``. An entry in flight, released or in doubt is
        never removed, nor is one that changes at the same moment.
        """

    @abstractmethod
    def naming(self, digest: str) -> Iterable[str]:
        """Return the keys of the entries that have the recipient ``digest``. It may look at every entry."""

    def erase(self, key: str, digest: str, words: Sequence[str]) -> None:
        """Erase the recipient ``digest`` from what the store keeps of ``key`` beside the entry: rows of old.

        Called after the entry itself has forgotten. Stores that keep all in the entry have nothing to do.
        """
        return

    def problems(self) -> Sequence[str]:
        """Return what makes this store unfit to be a ledger, one sentence each, with the way out."""
        return ()

    @abstractmethod
    def now(self) -> datetime:
        """Return the store's clock, in aware UTC."""
