"""What happens in a storm, and when."""

from __future__ import annotations

import random
from dataclasses import dataclass

PUBLISH_SECONDS = 12.0
OUTAGE = 7.0
"""Seconds after the first event at which workers stand still, and soon after that the broker dies."""
DOOMED, DOOM = 3, OUTAGE + 0.2
"""So many mails have all their events then: the broker loses each message that asks for them."""
KILLS = 6

Mail = tuple[int, str]
"""What makes two events the same mail: order and recipient."""


@dataclass(frozen=True)
class Event:
    """One publication of a mail, ``at`` seconds after the start."""

    at: float
    mail: Mail
    mishap: str | None


@dataclass(frozen=True)
class Plan:
    """What happens in a storm, the same for every task that goes through it."""

    seed: int
    mails: list[Mail]
    events: list[Event]
    kills: list[float]

    @property
    def doomed(self) -> list[Mail]:
        """The mails that nothing asks for but what the broker loses."""
        return self.mails[:DOOMED]


def make_plan(logical: int, events: int, seed: int) -> Plan:
    """Return a storm of ``events`` publications of ``logical`` mails, within `PUBLISH_SECONDS`."""
    dice = random.Random(seed)
    mails = [(1000 + n, f"customer{n}@example.com") for n in range(logical)]
    wanted = mails + dice.choices(mails, k=events - logical)
    dice.shuffle(wanted)
    moments = {mail: dice.uniform(0, PUBLISH_SECONDS) for mail in mails}
    doomed = mails[:DOOMED]
    mishaps = ["before"] * 4 + ["after"] * 2 + [None] * 14
    plan = []
    for mail in wanted:
        # Half of the events of a mail come at the same moment, from several publishers.
        at = moments[mail] if dice.random() < 0.5 else dice.uniform(0, PUBLISH_SECONDS)
        plan.append(Event(DOOM if mail in doomed else at, mail, dice.choice(mishaps)))
    kills = sorted(dice.uniform(1, PUBLISH_SECONDS) for _ in range(KILLS))
    return Plan(seed, mails, plan, kills)
