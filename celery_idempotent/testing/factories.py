"""Entries, attempts and claims as a ledger would write them, and races between threads, for tests of stores."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from ..ledger.entry import After, Attempt, Entry, Recipient
from ..ledger.held_claim import HeldClaim
from ..ledger.ledger import Ledger
from ..ledger.policy import Claimant, Policy
from ..ledger.status import Status

_T = TypeVar("_T")

KEY = "1:" + "ab" * 32
ANN = Recipient("d1" * 32, "a***@example.com")
BOB = Recipient("b0" * 32, "b***@example.com")


def make_entry(key: str = KEY, **changes: Any) -> Entry:
    """Return a claimed entry as `Ledger` would write it."""
    entry = Entry(
        key=key,
        email_type="confirmation",
        status=Status.CLAIMED,
        owner="task-1",
        claim_id="claim-1",
        deadline=After(60),
        begun_at=After(),
        created_at=After(),
    )
    return replace(entry, **changes)


def make_attempt(**changes: Any) -> Attempt:
    """Return a hand-over that has just begun."""
    return replace(Attempt(1, 1, "0", "task-1", "worker", "<m@x>", 1, After()), **changes)


def race(work: Callable[[int], _T], racers: int = 8) -> list[_T]:
    """Run ``work(n)`` in ``racers`` threads that start together, and return their results."""
    barrier = threading.Barrier(racers)

    def run(number: int) -> _T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(racers) as pool:
        return list(pool.map(run, range(racers)))


def hold(
    ledger: Ledger, entry: Entry, claimant: Claimant | None = None, policy: Policy | None = None
) -> HeldClaim:
    """Return the claim on ``entry`` in its owner's hands, or in those of ``claimant``, to write in its name."""
    owner = Claimant(entry.key, entry.email_type, entry.owner)
    return HeldClaim(ledger.store, claimant or owner, policy or Policy(), entry)
