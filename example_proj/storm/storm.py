"""One storm from start to end, with its progress on the screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .chaos import Chaos
from .crew import Crew
from .figures import Figures, Tally
from .plan import Plan
from .publishers import HEAD_START, publishers

QUIET = 8.0
"""Seconds without any news after which nobody expects any more."""
SHOWN_EVERY = 1.5
"""Seconds from one line of progress to the next."""


class Storm:
    """Runs a plan against the task ``task_name``, with everything it needs under ``folder``."""

    def __init__(self, name: str, task_name: str, plan: Plan, folder: Path) -> None:
        self.name, self.task_name, self.plan = name, task_name, plan
        self.crew = Crew(name, folder / name, folder / "broker", plan.seed)
        self.tally = Tally(task_name, plan, self.crew)
        self.chaos = Chaos(self.crew, plan)
        self.answered = -1
        self.in_time = True

    def run(self, seconds: float) -> Figures:
        """Run the storm for ``seconds`` at most, and count."""
        deadline = time.monotonic() + seconds
        with self.crew:
            if self.tally.has_outbox:
                self.crew.start_relay()
            self.crew.wait_until_ready(deadline)
            start = time.monotonic()
            with publishers(self.task_name, self.plan, self.crew.published) as processes:
                self._watch(start, deadline, processes)
            return self.tally.figures(self.chaos.wiped, time.monotonic() - start)

    def _watch(self, start: float, deadline: float, publishing: list[Any]) -> None:
        """Strike on time and show progress until all has come to its end, nothing moves, or the time is up."""
        shown = news = 0.0
        while (now := time.monotonic()) < deadline:
            self.chaos.strike(now - start - HEAD_START)
            if now - shown >= SHOWN_EVERY:
                shown = now
                if self._has_moved():
                    news = now
                self._show(now - start)
                over = not any(process.is_alive() for process in publishing)
                if over and (self.tally.is_done(self.answered) or now - news > QUIET):
                    return
            time.sleep(0.005)
        self.in_time = False
        print(f"{self.name:>7}  the time is up; what follows is how far it came", flush=True)

    def _has_moved(self) -> bool:
        before, self.answered = self.answered, self.tally.answered()
        return self.answered != before

    def _show(self, seconds: float) -> None:
        mails = sum(self.tally.copies().values())
        print(
            f"{self.name:>7}  {seconds:5.1f} s   {self.answered:4} of {len(self.plan.events)} events answered"
            f"   {mails:4} mails at the server   {self.chaos.killed} processes killed",
            flush=True,
        )
