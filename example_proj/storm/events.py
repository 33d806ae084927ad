"""The storm: a few hundred intended emails as many more events, the same for both runs.

Usage: python -m storm.events ledger|plain PART PARTS. Publishes its share.
"""

from __future__ import annotations

import random
import sys
from typing import Any

Event = tuple[str, str, tuple[Any, ...]]
"""Tag of the logical email, name of the task, its arguments."""

PER_KIND = 80
SEED = 20261


def logical_emails() -> list[Event]:
    """Return every intended email once."""
    events: list[Event] = []
    for number in range(PER_KIND):
        to = f"customer{number}@example.com"
        token = f"{number:04x}"
        events.append((f"reset {token}", "password_reset", (token, to)))
        events.append((f"onboarding {number}.1", "onboarding", (number, 1, to)))
        events.append((f"order {number}", "order_confirmation", (number, to)))
    return events


def storm() -> list[Event]:
    """Return the events: each email two to five times, shuffled."""
    dice = random.Random(SEED)
    events = [event for event in logical_emails() for _ in range(dice.randint(2, 5))]
    dice.shuffle(events)
    return events


def publish(mode: str, part: int, parts: int) -> None:
    """Publish every ``parts``-th event of the storm, beginning with ``part``."""
    import django

    django.setup()
    from shop import tasks

    prefix = "plain_" if mode == "plain" else ""
    for _, name, args in storm()[part::parts]:
        getattr(tasks, prefix + name).apply_async(args, queue=mode)


if __name__ == "__main__":
    publish(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
