"""Django signals about the end, the doubts and the duplicates of emails.

The sender is the task; ``entry`` is the `Entry` as it stands after the change.

A receiver that raises is logged and does not change the outcome (`Signal.send_robust`).

email_claimed          entry, task_id                    a run holds the claim
email_sent             entry, task_id                    the task succeeded, its result is recorded
email_failed           entry, task_id, exception         given up
email_in_doubt         entry, task_id, exception         the outcome of a hand-over is unknown
email_released         entry, task_id, exception         the attempt ended; a retry is due, or the key is free
duplicate_suppressed   entry, task_id, first_task_id     a duplicate was answered with the recorded result
claim_lost             entry, task_id, owner             a run found that another one had taken its claim over
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = [
    "claim_lost",
    "duplicate_suppressed",
    "email_claimed",
    "email_failed",
    "email_in_doubt",
    "email_released",
    "email_sent",
]

email_claimed = Signal()
email_sent = Signal()
email_failed = Signal()
email_in_doubt = Signal()
email_released = Signal()
duplicate_suppressed = Signal()
claim_lost = Signal()
