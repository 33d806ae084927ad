"""The conformance suite: what every `Store` has to do, for our stores and for those that others write.

Subclass `StoreConformance`, give it a ``store`` fixture that returns an empty store, and run pytest.
"""

from .conformance import StoreConformance
from .factories import ANN, BOB, KEY, hold, make_attempt, make_entry, race

__all__ = ["ANN", "BOB", "KEY", "StoreConformance", "hold", "make_attempt", "make_entry", "race"]
