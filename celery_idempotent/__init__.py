"""Each logical email reaches each recipient once per intended action.

The public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .exceptions import (
        ArgumentsNotSerializable,
        ClaimLost,
        DeliveryInDoubt,
        DeliveryUnconfirmed,
        EntryChanged,
        EntryUnreadable,
        IdempotencyError,
        InProgress,
        InterventionRefused,
        KeyFieldError,
        LedgerUnavailable,
        PayloadMismatch,
        RecipientsDeferred,
        RecipientsRefused,
        TransitionForbidden,
        UnsafeTransaction,
    )
    from .ledger.entry import Entry
    from .ledger.policy import SendRequest, Verdict
    from .ledger.status import Status
    from .ledger.store import Store
    from .operations.erasure import forget
    from .operations.purge import purge
    from .operations.sweep import sweep
    from .tasks.idempotent import IdempotentEmailTask, IdempotentTask

__version__ = "0.1.0"
__all__ = [
    "ArgumentsNotSerializable",
    "ClaimLost",
    "DeliveryInDoubt",
    "DeliveryUnconfirmed",
    "Entry",
    "EntryChanged",
    "EntryUnreadable",
    "IdempotencyError",
    "IdempotentEmailTask",
    "IdempotentTask",
    "InProgress",
    "InterventionRefused",
    "KeyFieldError",
    "LedgerUnavailable",
    "PayloadMismatch",
    "RecipientsDeferred",
    "RecipientsRefused",
    "SendRequest",
    "Status",
    "Store",
    "TransitionForbidden",
    "UnsafeTransaction",
    "Verdict",
    "forget",
    "purge",
    "sweep",
]

_HOMES = {
    "Entry": "ledger.entry",
    "IdempotentEmailTask": "tasks.idempotent",
    "IdempotentTask": "tasks.idempotent",
    "SendRequest": "ledger.policy",
    "Status": "ledger.status",
    "Store": "ledger.store",
    "Verdict": "ledger.policy",
    "forget": "operations.erasure",
    "purge": "operations.purge",
    "sweep": "operations.sweep",
}
"""Modules of the names that are no errors."""

if not TYPE_CHECKING:  # a type checker knows the names from above, and finds one that is misspelt

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f".{_HOMES.get(name, 'exceptions')}", __name__)
        return getattr(module, name)
