"""Where entries are kept, and the values that a `Store` of your own takes and returns."""

from ..ledger.entry import After, Attempt, Delivery, Recipient
from ..ledger.status import DeliveryStatus
from ..ledger.store import Stored

__all__ = ["After", "Attempt", "Delivery", "DeliveryStatus", "Recipient", "Stored"]
