"""Each logical email reaches each recipient once per intended action. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exceptions import (
        ArgumentsNotSerializable,
        ClaimLost,
        DeliveryInDoubt,
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
        UnsafeTransaction,
    )
    from .ledger.policy import Verdict
    from .ledger.status import Status
    from .tasks.idempotent import IdempotentEmailTask, IdempotentTask

__version__ = "0.1.0"
__all__ = [
    "ArgumentsNotSerializable",
    "ClaimLost",
    "DeliveryInDoubt",
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
    "Status",
    "UnsafeTransaction",
    "Verdict",
]

_HOMES = {
    "IdempotentEmailTask": "tasks.idempotent",
    "IdempotentTask": "tasks.idempotent",
    "Status": "ledger.status",
    "Verdict": "ledger.policy",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_HOMES.get(name, 'exceptions')}", __name__)
    return getattr(module, name)
