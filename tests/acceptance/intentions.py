"""``python -m tests.acceptance.intentions FIRST NUMBER SECONDS``: orders, a third of which are rolled back.

Each is a transaction with a row of the project's own and an intention. A line in the file ``ended`` tells how
it ended, as its publisher saw it.
"""

from __future__ import annotations

import sys
import time

from tests.acceptance.app import DIRECTORY, confirm  # isort: skip  # it sets Django up

from django.contrib.auth.models import User
from django.db import transaction


class RolledBack(Exception):
    """What makes a transaction fail."""


def order(number: int) -> str:
    """Place one order, and return what became of it."""
    try:
        with transaction.atomic():
            User.objects.create(username=f"order-{number}")
            confirm.enqueue(number, to=f"customer{number}@example.com")
            if number % 3 == 0:
                raise RolledBack
    except RolledBack:
        return "rolled-back"
    return "committed"


def main(first: int, number: int, seconds: float) -> None:
    """Place orders, evenly over the time."""
    start = time.monotonic()
    with open(f"{DIRECTORY}/ended", "a", encoding="utf-8", buffering=1) as ended:
        for place in range(number):
            time.sleep(max(0.0, start + place * seconds / number - time.monotonic()))
            ended.write(f"{order(first + place)} {first + place}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
