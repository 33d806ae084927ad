"""What claim, relay, sweep and purge ask a database, and what of it would read a table or an index through."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from unittest.mock import patch

from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Duplicate, Reply
from celery_idempotent.ledger.policy import Policy
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.operations import search
from celery_idempotent.operations.sweep import Sweep
from celery_idempotent.outbox import rows as outbox_rows
from celery_idempotent.stores.database.store import DatabaseStore
from celery_idempotent.testing import hold
from tests.support.filled_ledger import claimant, fill_outbox, heard, plans, sent

OUTBOX, DUE = 100_000, 20
"""Messages in the outbox, and how many of them are due."""
FRESH = itertools.count(2_000_000_000)
"""Emails that no ledger has."""
TARGET = ("0", Recipient("e" * 64, "e***@example.com"))


def claim(alias: str, ledger: Ledger) -> None:
    """A new email and its duplicate; then one that is taken over."""
    number = next(FRESH)
    sent(ledger, number)
    assert isinstance(ledger.claim(claimant(number, "other"), Policy()), Duplicate)
    assert isinstance(ledger.claim(claimant(1, "other"), Policy()), Duplicate), (
        "one of those it was filled with"
    )
    number = next(FRESH)
    assert isinstance(ledger.claim(claimant(number), Policy()), Acquired)
    assert isinstance(ledger.claim(claimant(number), Policy()), Acquired)


def relay(alias: str, ledger: Ledger) -> None:
    """Take what is due, look it up, and do all that can be done with a message."""
    rows = outbox_rows.take(alias, DUE)
    assert len(rows) == DUE
    assert ledger.store.get_many([row.key for row in rows])
    outbox_rows.published(alias, rows, lambda tries: 900.0)
    outbox_rows.wait(alias, rows, 1.0, "why")
    outbox_rows.give_back(alias, rows)
    assert outbox_rows.remove(alias, [row.task_id for row in rows]) == DUE


def sweep(alias: str, ledger: Ledger) -> None:
    """All that one pass does; there is a passed lease, a passed hand-over, a doubt and something stuck."""
    passed = Policy(lease=-86_400.0, send_timeout=-86_400.0)  # before all that measuring has left
    ledger.claim(claimant(next(FRESH)), passed)
    _begun(ledger, next(FRESH), passed)
    number = next(FRESH)
    doubtful = {TARGET: Reply(DeliveryStatus.IN_DOUBT)}
    hold(ledger, _begun(ledger, number, Policy()), claimant(number), Policy()).settle(doubtful, "<m@x>")
    with patch.multiple(search, ledger_alias=lambda: alias, has_tables=lambda: True):
        one = Sweep(ledger)
        one.expire_deadlines()
        one.settle_doubts()
        one.report_stuck(0.0)
    assert one.done.released
    assert one.done.in_doubt
    assert one.done.stuck


def _begun(ledger: Ledger, number: int, policy: Policy) -> object:
    claimed = ledger.claim(claimant(number), policy)
    assert isinstance(claimed, Acquired)
    return hold(ledger, claimed.entry, claimant(number), policy).begin([TARGET], "<m@x>")


def purge(alias: str, ledger: Ledger) -> None:
    """A batch of a hundred."""
    assert ledger.store.purge(older_than=0, limit=100) == 100


WORK: dict[str, Callable[[str, Ledger], None]] = {
    "claim": claim,
    "relay": relay,
    "sweep": sweep,
    "purge": purge,
}


def walks(alias: str, messages: int = OUTBOX) -> dict[str, tuple[int, list[str]]]:
    """Do each kind of work on the ledger in ``alias``, and an outbox of so many ``messages``.

    Return how many different statements it took, and what they would read from end to end by their plans.
    """
    fill_outbox(alias, messages, DUE)
    ledger, found = Ledger(DatabaseStore(lambda: alias)), {}
    for name, work in WORK.items():
        with heard(alias) as statements:
            work(alias, ledger)
        different = dict(statements)
        found[name] = len(different), plans(alias, list(different.items()))
    return found
