"""For tests: a fresh ledger, a clock to move, short waits; and the conformance suite for a `Store` of your own.

Subclass `StoreConformance`, give it a ``store`` fixture that returns an empty store, and run pytest.
"""

from .conformance import StoreConformance
from .factories import ANN, BOB, KEY, hold, make_attempt, make_entry, race
from .ledgers import FakeClock, fresh_ledger
from .waits import speed_up

__all__ = [
    "ANN",
    "BOB",
    "KEY",
    "FakeClock",
    "StoreConformance",
    "fresh_ledger",
    "hold",
    "make_attempt",
    "make_entry",
    "race",
    "speed_up",
]
