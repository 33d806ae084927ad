"""What is sent, by the rule alone: no ledger, no versions, no leases, and no clock but the schedule's."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count

from tests.ledger.world import NEVER, REDELIVER, SEND_TIMEOUT, Delivery


class Rule:
    """Works off deliveries whose bodies take no time. Times are whole milliseconds here.

    Who is new sends if nobody has, or if a window or more has passed since the last acceptance was recorded.
    While a hand-over may be on, and while its outcome is unknown and held, nobody sends.
    """

    def __init__(self, window: float, in_doubt: str, decides: float | None) -> None:
        self.window, self.in_doubt, self.decides = _ms(window), in_doubt, decides
        self.sent: list[tuple[int, int]] = []
        self._recorded: int | None = None
        self._busy_until = 0
        self._deadline = 0
        """Before it nobody can say that what is in doubt was not sent."""
        self._doubt: bool | None = None
        """Whether the mail server has what is in doubt."""
        self._now, self._before = set[int](), set[int]()
        """Tasks that took part in this sending, and in those before."""
        self._steps: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = count()

    def run(self, deliveries: Iterable[Delivery]) -> list[tuple[int, int]]:
        """Return when the mail server took a mail, and whose."""
        for delivery in deliveries:
            self._later(_ms(delivery.at), delivery)
        while self._steps:
            when, _, step = heapq.heappop(self._steps)
            step(when)
        return self.sent

    def _at(self, when: int, step: Callable[[int], None]) -> None:
        heapq.heappush(self._steps, (when, next(self._order), step))

    def _later(self, when: int, delivery: Delivery) -> None:
        self._at(when, lambda now: self._comes(now, delivery))

    def _comes(self, now: int, delivery: Delivery) -> None:
        task = delivery.task
        if task in self._before:
            return None
        if self._recorded is not None:
            if task in self._now or now < self._recorded + self.window:
                return self._now.add(task)
            self._before, self._now, self._recorded = self._before | self._now, set(), None
        elif now < self._busy_until:
            return self._later(self._busy_until + 50, delivery)
        elif self._doubt is False and self.in_doubt == "verifier" and now < self._deadline:
            return self._later(self._deadline + 50, delivery)
        elif self._doubt is not None and self.in_doubt == "hold":
            return None if self.decides is NEVER else self._later(now + _ms(REDELIVER), delivery)
        self._now.add(task)
        known, self._doubt = self._doubt if self.in_doubt == "verifier" else False, None
        return self._record(now) if known else self._sends(now, delivery)

    def _sends(self, now: int, delivery: Delivery) -> None:
        answered = delivery.fate == "ok"
        if answered or delivery.taken:
            self.sent.append((now, delivery.task))
        if answered:
            return self._record(now)
        killed, self._doubt = delivery.fate == "killed in the hand-over", delivery.taken
        self._deadline = now + _ms(SEND_TIMEOUT)
        self._busy_until = self._deadline if killed else now
        held = self.in_doubt == "hold"
        if held and self.decides is not NEVER:
            open_until = self._busy_until if delivery.taken else self._deadline
            self._at(open_until + _ms(self.decides), self._decided)
        calm = replace(delivery, fate="ok")
        if killed or not held:
            return self._later(now + _ms(delivery.again), calm)
        return None if self.decides is NEVER else self._later(now + _ms(REDELIVER), calm)

    def _record(self, now: int) -> None:
        self._recorded = now

    def _decided(self, now: int) -> None:
        if self._doubt:
            self._record(now)
        self._doubt = None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
