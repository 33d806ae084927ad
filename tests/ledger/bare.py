"""``python -m tests.ledger.bare``: say which of the frameworks the rules and the memory store bring in."""

from __future__ import annotations

import sys

import celery_idempotent.ledger.ledger
import celery_idempotent.stores.memory  # noqa: F401

if __name__ == "__main__":
    print(*sorted({"django", "celery", "kombu", "redis"} & set(sys.modules)))
