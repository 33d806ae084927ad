"""Functions that tests of the outbox have called in the project: write intentions, and relay them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any
from unittest.mock import patch

from django.db import transaction
from django.utils import timezone

from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Relay
from tests.acceptance.app import app, confirm, pair


def count_waiting() -> int:
    """Return how many messages are in the outbox."""
    return OutboxMessage.objects.count()


def make_due() -> None:
    """Have every message published again at once."""
    OutboxMessage.objects.update(due_at=timezone.now())


def relay() -> None:
    """Relay once, with every message due."""
    make_due()
    Relay(app).once()


def commit_and_roll_back(first: int, last: int, rolled_back: int) -> None:
    """Commit the intentions from ``first`` to ``last``, and roll one back."""
    with transaction.atomic():
        confirm.enqueue(first)
        confirm.enqueue_many([(order,) for order in range(first + 1, last + 1)])
    with suppress(ValueError), transaction.atomic():
        confirm.enqueue(rolled_back)
        raise ValueError


def die_after_the_commit(order: int) -> None:
    """Write an intention, and be killed in the moment in which it were to be published."""
    with patch("celery_idempotent.outbox.enqueue._publish", lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
        confirm.enqueue(order)


def enqueue_pair(order: int) -> str:
    """Write the intention of a pair of mails, wait for its task's end, and return that one's id."""
    result: Any = pair.enqueue(order)
    result.get(timeout=60, propagate=False)
    return str(result.id)


def find_state_of_pair(task_id: str) -> list[Any]:
    """Return how many messages wait, and the state of the task."""
    return [count_waiting(), pair.AsyncResult(task_id).status]
