"""One storm: the same events, mishaps and kills against a task, and what the mail server saw of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

HERE = Path(__file__).resolve().parent
PUBLISHERS = 3
PUBLISH_SECONDS = 12.0
HEAD_START = 2.0
WORKERS = 2
KILLS = 6
READY = ("SUCCESS", "FAILURE", "REVOKED", "REJECTED")

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


@dataclass
class Figures:
    """What came of a storm.

    Copies are counted at the mail server, suppressed duplicates in the tasks' results, doubt in the ledger.
    """

    logical: int
    events: int
    sent: int
    duplicates: int
    suppressed: int
    lost: int
    in_doubt: int
    seconds: float


def make_plan(logical: int, events: int, seed: int) -> Plan:
    """Return a storm of ``events`` publications of ``logical`` mails, within `PUBLISH_SECONDS`."""
    dice = random.Random(seed)
    mails = [(1000 + n, f"customer{n}@example.com") for n in range(logical)]
    wanted = mails + dice.choices(mails, k=events - logical)
    dice.shuffle(wanted)
    moments = {mail: dice.uniform(0, PUBLISH_SECONDS) for mail in mails}
    mishaps = ["before"] * 4 + ["after"] * 2 + [None] * 14
    plan = []
    for mail in wanted:
        # Half of the events of a mail come at the same moment, from several publishers.
        at = moments[mail] if dice.random() < 0.5 else dice.uniform(0, PUBLISH_SECONDS)
        plan.append(Event(at, mail, dice.choice(mishaps)))
    kills = sorted(dice.uniform(1, PUBLISH_SECONDS) for _ in range(KILLS))
    return Plan(seed, mails, plan, kills)


def publish(task_name: str, events: list[Event], ids: list[str], start: float) -> None:
    """Publish ``events`` at their times. Runs in a process of its own."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    django.setup()
    from shop.celery import app
    from shop.mishaps import HEADER

    app.loader.import_default_modules()
    task = app.tasks[task_name]
    for event, task_id in sorted(zip(events, ids, strict=True), key=lambda pair: pair[0].at):
        time.sleep(max(0.0, start + event.at - time.time()))
        headers = {HEADER: event.mishap} if event.mishap else {}
        task.apply_async(event.mail, task_id=task_id, headers=headers)


class Storm:
    """Runs a plan against the task ``task_name``, with everything it needs under ``folder``."""

    def __init__(self, name: str, task_name: str, plan: Plan, folder: Path) -> None:
        self.name, self.task_name, self.plan = name, task_name, plan
        self.folder = folder / name
        self.busy = self.folder / "busy"
        self.busy.mkdir(parents=True)
        self.record = self.folder / "sink.jsonl"
        self.record.touch()
        self.broker = folder / "broker"
        self.ids = [str(uuid4()) for _ in plan.events]
        self.workers: list[subprocess.Popen[bytes]] = []
        self.killed = 0
        self.deadline = 0.0

    def run(self, seconds: float) -> Figures:
        """Run the storm for ``seconds`` at most, and count."""
        self.deadline = time.monotonic() + seconds
        shutil.rmtree(self.broker, ignore_errors=True)
        for name in ("queue", "taken", "control"):
            (self.broker / name).mkdir(parents=True)
        with ExitStack() as stack:
            environment = {"SHOP_EMAIL_PORT": stack.enter_context(self._sink())}
            environment["SHOP_BUSY_FOLDER"] = str(self.busy)
            self.workers = [stack.enter_context(self._worker(n + 1, environment)) for n in range(WORKERS)]
            self._wait_until_ready()
            start = time.monotonic()
            with self._publishers():
                self._watch(start)
            return self._count(time.monotonic() - start)

    # -- the processes -----------------------------------------------------------------------------------

    @contextmanager
    def _sink(self) -> Iterator[str]:
        command = [sys.executable, str(HERE / "sink.py"), str(self.record), str(self.plan.seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip()
            finally:
                process.kill()

    @contextmanager
    def _worker(self, number: int, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--loglevel=INFO"]
        command += ["--pool=prefork", "--concurrency=2", f"--hostname={self.name}{number}@demo"]
        command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        with self._log(number).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=HERE,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            # Nothing is left to do, or the time is up.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait(10)

    def _log(self, number: int) -> Path:
        return self.folder / f"worker{number}.log"

    def _wait_until_ready(self) -> None:
        while time.monotonic() < self.deadline:
            if all(" ready." in self._log(n + 1).read_text() for n in range(WORKERS)):
                return
            if any(worker.poll() is not None for worker in self.workers):
                break
            time.sleep(0.1)
        raise RuntimeError(f"a worker did not start; its log is in {self.folder}")

    @contextmanager
    def _publishers(self) -> Iterator[None]:
        spawn = multiprocessing.get_context("spawn")
        start = time.time() + HEAD_START  # for the processes to come up
        shares = [slice(n, None, PUBLISHERS) for n in range(PUBLISHERS)]
        processes = [
            spawn.Process(
                target=publish, args=(self.task_name, self.plan.events[share], self.ids[share], start)
            )
            for share in shares
        ]
        for process in processes:
            process.start()
        try:
            yield
        finally:
            for process in processes:
                process.kill()
                process.join()

    # -- while it lasts ----------------------------------------------------------------------------------

    def _watch(self, start: float) -> None:
        """Kill on time and show progress until every event's task has ended, or the time is up."""
        kills = [start + HEAD_START + at for at in self.plan.kills]
        shown = 0.0
        while time.monotonic() < self.deadline:
            if kills and time.monotonic() >= kills[0] and self._kill_one():
                kills.pop(0)
            if time.monotonic() - shown >= 1.5:
                shown = time.monotonic()
                ended = self._ended()
                self._show(shown - start, ended)
                if ended >= len(self.ids):
                    return
            time.sleep(0.005)
        print(f"{self.name:>7}  the time is up; what follows is how far it came", flush=True)

    def _kill_one(self) -> bool:
        """SIGKILL a pool process in the middle of a task, as the kernel does when memory runs out."""
        for note in self.busy.iterdir():
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
                self.killed += 1
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    def _is_of_this_storm(self, note: Path) -> bool:
        """Tell whether the process of ``note`` is a child of one of our workers, as it has written itself."""
        try:
            return int(note.read_text() or 0) in [worker.pid for worker in self.workers]
        except FileNotFoundError:
            return False

    def _ended(self) -> int:
        from django_celery_results.models import TaskResult

        return int(TaskResult.objects.filter(task_name=self.task_name, status__in=READY).count())

    def _show(self, seconds: float, ended: int) -> None:
        mails = sum(self._copies().values())
        print(
            f"{self.name:>7}  {seconds:5.1f} s   {ended:4} of {len(self.ids)} events done   "
            f"{mails:4} mails at the server   {self.killed} processes killed",
            flush=True,
        )

    # -- afterwards --------------------------------------------------------------------------------------

    def _copies(self) -> Counter[Mail]:
        lines = self.record.read_text(encoding="utf-8").splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return Counter((int(row["subject"].split()[1]), to) for row in rows for to in row["to"])

    def _suppressed(self) -> int:
        from django_celery_results.models import TaskResult

        done = TaskResult.objects.filter(task_name=self.task_name, status="SUCCESS")
        notes = [
            json.loads(meta or "{}").get("celery_idempotent", {})
            for meta in done.values_list("meta", flat=True)
        ]
        return sum(note.get("outcome") == "duplicate" for note in notes)

    def _doubtful(self) -> set[Mail]:
        from shop.celery import app

        from celery_idempotent import IdempotentTask

        task = app.tasks[self.task_name]
        if not isinstance(task, IdempotentTask):
            return set()
        entries = {mail: task.entry_for(*mail) for mail in self.plan.mails}
        return {mail for mail, entry in entries.items() if entry and entry.status == "in_doubt"}

    def _count(self, seconds: float) -> Figures:
        copies, doubtful = self._copies(), self._doubtful()
        logical, events = len(self.plan.mails), len(self.plan.events)
        duplicates = copies.total() - len(copies)
        return Figures(
            logical=logical,
            events=events,
            sent=len(copies),
            duplicates=duplicates,
            suppressed=self._suppressed(),
            lost=sum(mail not in copies and mail not in doubtful for mail in self.plan.mails),
            in_doubt=len(doubtful),
            seconds=round(seconds, 1),
        )
