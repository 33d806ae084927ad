"""What kills: pool processes in the middle of a task, and once the broker with a whole worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .crew import Crew
from .plan import OUTAGE, Plan

LEAST_LOST = 5
LONGEST_JAM = 4.0
"""Seconds for which workers stand still at most, so that messages wait."""


class Chaos:
    """Strikes ``crew`` at the moments that ``plan`` has, in seconds after the first event, and counts."""

    def __init__(self, crew: Crew, plan: Plan) -> None:
        self.crew = crew
        self.killed = 0
        self.wiped = 0
        self._kills = list(plan.kills)
        self._doomed = set(plan.doomed)
        self._asking = sum(event.mail in self._doomed for event in plan.events)

    def strike(self, seconds: float) -> None:
        """Do what is due ``seconds`` after the first event."""
        if self._kills and seconds >= self._kills[0] and self._kill_one():
            self._kills.pop(0)
            self.killed += 1
        if not self.wiped and seconds >= OUTAGE:
            self._kill_broker()

    def _kill_broker(self) -> None:
        """Do to a folder what kill -9 does to a broker that keeps nothing: all that waits in it is gone.

        So is a whole worker, with the messages that it has in hand: a folder does not give those back.
        """
        for worker in self.crew.workers:  # or a fast one leaves nothing to lose
            os.killpg(worker.pid, signal.SIGSTOP)
        waiting = self._waiting()
        for message in waiting:
            try:
                message.unlink()
                self.wiped += 1
            except FileNotFoundError:
                continue  # a worker was faster
        if waiting:
            self.crew.replace_worker(0)
        for worker in self.crew.workers:
            os.killpg(worker.pid, signal.SIGCONT)
        if not waiting:
            return  # a slow machine has published nothing yet: later, then
        print(
            f"{self.crew.name:>7}  the broker's folder was emptied ({self.wiped} messages) and a worker killed",
            flush=True,
        )

    def _waiting(self) -> list[Path]:
        """Return the messages that wait, once the doomed have come and there are enough to be worth it."""
        end = time.monotonic() + LONGEST_JAM
        waiting: list[Path] = []
        while time.monotonic() < end:
            time.sleep(0.02)
            come = sum(mail in self._doomed for _, mail in self.crew.events_out())
            waiting = list((self.crew.broker / "queue").glob("*.msg"))
            if come == self._asking and len(waiting) >= LEAST_LOST:
                break
        return waiting

    def _kill_one(self) -> bool:
        """SIGKILL a pool process in the middle of a task, as the kernel does when memory runs out."""
        for note in self.crew.busy.iterdir():
            pid = int(note.name)
            if not self._is_of_this_storm(note):
                note.unlink(missing_ok=True)
                continue
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.005)
            # An idle process may hold the lock of the pool's queue, which would die with it.
            if note.exists():
                os.kill(pid, signal.SIGKILL)
                note.unlink()
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    def _is_of_this_storm(self, note: Path) -> bool:
        """Tell whether the process of ``note`` is a child of one of our workers, as it has written itself."""
        try:
            return int(note.read_text() or 0) in [worker.pid for worker in self.crew.workers]
        except FileNotFoundError:
            return False
