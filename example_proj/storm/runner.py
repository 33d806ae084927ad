"""One run of the storm: mail server, workers, publishers and kills; then what the mail server has seen."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .events import SEED, logical_emails, storm

PROJECT = Path(__file__).resolve().parent.parent
WORKERS, POOL, PUBLISHERS, KILLS = 2, 2, 3, 6
LONGEST = 50.0
"""Seconds after which a run is ended, done or not."""


class Run:
    """Runs the storm with the ledger or without, in processes of its own."""

    def __init__(self, mode: str, data: Path) -> None:
        self.mode = mode
        self.data = data
        self.accepted = data / f"accepted-{mode}.jsonl"
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "SHOP_DATA": str(data),
            "SHOP_DEBUG": "0",
            "SHOP_TROUBLE": "1",
        }
        self.events = storm()
        self.dice = random.Random(SEED)

    def __call__(self) -> dict[str, Any]:
        """Run it and return the figures."""
        started = time.monotonic()
        with ExitStack() as stack:
            sink = stack.enter_context(self._process("storm.sink", str(self.accepted), stdout=subprocess.PIPE))
            assert sink.stdout is not None
            self.environment["SHOP_SMTP"] = f"127.0.0.1:{int(sink.stdout.readline())}"
            workers = [stack.enter_context(self._worker(number)) for number in range(WORKERS)]
            for part in range(PUBLISHERS):
                arguments = (self.mode, str(part), str(PUBLISHERS))
                stack.enter_context(self._process("storm.events", *arguments))
            self._watch(workers, started)
        return self._figures(time.monotonic() - started)

    @contextmanager
    def _process(self, module: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run a module in a process group of its own, and end the whole group afterwards."""
        with (self.data / f"{module}-{self.mode}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self.environment,
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                **{"stdout": log, **options},
            )
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # a publisher that is done
            process.communicate()

    def _worker(self, number: int) -> Any:
        arguments = f"-A shop worker -Q {self.mode} -c {POOL} -n {self.mode}{number}@shop -l INFO"
        quiet = "--without-mingle --without-gossip --without-heartbeat"
        return self._process("celery", *arguments.split(), *quiet.split())

    # -- while it runs -----------------------------------------------------------------------------------

    def _watch(self, workers: list[subprocess.Popen[str]], started: float) -> None:
        """Show progress and kill pool processes on the way, until every event has come to its end."""
        total, killed, shown = len(self.events), 0, 0.0
        while time.monotonic() - started < LONGEST:
            done = self._done()
            if any(worker.poll() is not None for worker in workers):
                sys.exit(f"a worker ended by itself: see {self.data}/celery-{self.mode}.log")
            if done > (killed + 1) * total * 0.8 / KILLS and killed < KILLS:
                killed += self._kill(self.dice.choice(workers).pid)
            if time.monotonic() - shown > 1:
                shown = time.monotonic()
                self._show(done, killed, shown - started)
            if done >= total:
                break
            time.sleep(0.2)
        self._show(self._done(), killed, time.monotonic() - started)
        print()

    def _show(self, done: int, killed: int, seconds: float) -> None:
        line = f"  {self.mode:6}  {seconds:4.0f} s  {done:4} of {len(self.events)} events finished, "
        line += f"{sum(self.copies().values())} mails at the server, {killed} processes killed"
        end = "\r" if sys.stdout.isatty() else "\n"
        print(line.ljust(90), end=end, flush=True)

    def _done(self) -> int:
        from django_celery_results.models import TaskResult

        names = {("shop.tasks.plain_" if self.mode == "plain" else "shop.tasks.") + e[1] for e in self.events}
        finished = TaskResult.objects.filter(status__in=("SUCCESS", "FAILURE"), task_name__in=names)
        return finished.count()

    def _kill(self, worker: int) -> int:
        """Kill one pool process of ``worker``, as the out-of-memory killer would."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(worker)], capture_output=True, text=True)
        children = [int(line) for line in listed.stdout.split()]
        if not children:
            return 0
        try:
            os.kill(self.dice.choice(children), signal.SIGKILL)
        except ProcessLookupError:
            return 0
        return 1

    # -- afterwards --------------------------------------------------------------------------------------

    def copies(self) -> Counter[str]:
        """Return how many copies of each logical email the mail server has taken."""
        if not self.accepted.exists():
            return Counter()
        return Counter(json.loads(line)["tag"] for line in self.accepted.read_text().splitlines())

    def _figures(self, seconds: float) -> dict[str, Any]:
        copies, wanted = self.copies(), {tag for tag, _, _ in logical_emails()}
        doubtful = self._in_doubt() if self.mode == "ledger" else set()
        duplicates = sum(copies.values()) - len(copies)
        return {
            "logical": len(wanted),
            "events": len(self.events),
            "sent": len(copies),
            "duplicates": duplicates,
            "suppressed": len(self.events) - len(wanted) - duplicates,
            "lost": len(wanted - set(copies) - doubtful),
            "in_doubt": len(doubtful),
            "seconds": round(seconds, 1),
        }

    def _in_doubt(self) -> set[str]:
        """Return the tags of the logical emails whose hand-over has an unknown outcome."""
        from shop import tasks

        from celery_idempotent.models import LogicalEmail

        keys = {getattr(tasks, name).key_for(*args): tag for tag, name, args in logical_emails()}
        return {keys[email.key] for email in LogicalEmail.objects.filter(status="in_doubt")}
