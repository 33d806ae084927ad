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
OUTAGE = 7.0
"""Seconds after the first event at which the broker loses everything."""
LEAST_LOST = 5
LONGEST_JAM = 2.0
"""Seconds for which workers stand still so that messages wait."""
QUIET = 8.0
"""Seconds without any news after which nobody expects any more."""
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

    Copies are counted at the mail server, suppressed duplicates in the tasks' results, wiped messages in the
    broker's folder, doubt in the ledger.
    """

    logical: int
    events: int
    sent: int
    duplicates: int
    suppressed: int
    wiped: int
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
    enqueue = getattr(task, "enqueue_with", None)
    for event, task_id in sorted(zip(events, ids, strict=True), key=lambda pair: pair[0].at):
        time.sleep(max(0.0, start + event.at - time.time()))
        headers = {HEADER: event.mishap} if event.mishap else {}
        if enqueue:
            enqueue(event.mail, headers=headers)
        else:
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
        self.wiped = 0
        self.deadline = 0.0
        self.environment: dict[str, str] = {}

    def run(self, seconds: float) -> Figures:
        """Run the storm for ``seconds`` at most, and count."""
        self.deadline = time.monotonic() + seconds
        shutil.rmtree(self.broker, ignore_errors=True)
        for name in ("queue", "taken", "control"):
            (self.broker / name).mkdir(parents=True)
        with ExitStack() as stack:
            self.environment = {"SHOP_EMAIL_PORT": stack.enter_context(self._sink())}
            self.environment["SHOP_BUSY_FOLDER"] = str(self.busy)
            stack.callback(self._end)
            self.workers = [self._worker(n + 1) for n in range(WORKERS)]
            if self._has_outbox():
                stack.enter_context(self._relay())
            self._wait_until_ready()
            start = time.monotonic()
            with self._publishers() as publishers:
                self._watch(start, publishers)
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

    def _worker(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--loglevel=INFO"]
        command += ["--pool=prefork", "--concurrency=2", f"--hostname={self.name}{number}@demo"]
        command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        return self._started(command, self._log(number))

    @contextmanager
    def _relay(self) -> Iterator[None]:
        command = [sys.executable, str(HERE / "manage.py"), "idempotency", "relay"]
        process = self._started([*command, "--continuous", "--interval", "0.5"], self.folder / "relay.log")
        try:
            yield
        finally:
            _kill(process)

    def _started(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as stream:
            return subprocess.Popen(
                command,
                cwd=HERE,
                env={**os.environ, **self.environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self) -> None:
        """Nothing is left to do, or the time is up."""
        for worker in self.workers:
            _kill(worker)

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
    def _publishers(self) -> Iterator[list[Any]]:
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
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.join()

    # -- while it lasts ----------------------------------------------------------------------------------

    def _watch(self, start: float, publishers: list[Any]) -> None:
        """Kill on time and show progress until all has come to its end, nothing moves, or the time is up."""
        kills = [start + HEAD_START + at for at in self.plan.kills]
        shown = news = 0.0
        answered = -1
        while time.monotonic() < self.deadline:
            now = time.monotonic()
            if kills and now >= kills[0] and self._kill_one():
                kills.pop(0)
            if not self.wiped and now >= start + HEAD_START + OUTAGE:
                self._kill_broker()
            if now - shown >= 1.5:
                shown = now
                before, answered = answered, self._answered()
                news = now if answered != before else news
                self._show(shown - start, answered)
                over = not any(process.is_alive() for process in publishers)
                if over and (self._is_done(answered) or now - news > QUIET):
                    return
            time.sleep(0.005)
        print(f"{self.name:>7}  the time is up; what follows is how far it came", flush=True)

    def _is_done(self, answered: int) -> bool:
        """Tell whether every event is answered; with an outbox, whether nothing waits but what is in doubt."""
        if not self._has_outbox():
            return answered >= len(self.ids)
        from celery_idempotent.models import LogicalEmail, OutboxMessage

        doubtful = LogicalEmail.objects.filter(status="in_doubt").values_list("key", flat=True)
        return not OutboxMessage.objects.exclude(key__in=list(doubtful)).exists()

    def _kill_broker(self) -> None:
        """Do to a folder what kill -9 does to a broker that keeps nothing: all that waits in it is gone.

        So is a whole worker, with the messages that it has in hand: a folder does not give those back.
        """
        for worker in self.workers:  # or a fast one leaves nothing to lose
            os.killpg(worker.pid, signal.SIGSTOP)
        end = time.monotonic() + LONGEST_JAM
        waiting: list[Path] = []
        while len(waiting) < LEAST_LOST and time.monotonic() < end:
            time.sleep(0.02)
            waiting = list((self.broker / "queue").glob("*.msg"))
        for message in waiting:
            try:
                message.unlink()
                self.wiped += 1
            except FileNotFoundError:
                continue  # a worker was faster
        _kill(self.workers[0])
        self.workers[0] = self._worker(1)
        for worker in self.workers[1:]:
            os.killpg(worker.pid, signal.SIGCONT)
        print(
            f"{self.name:>7}  the broker's folder was emptied ({self.wiped} messages) and a worker killed",
            flush=True,
        )

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

    def _answered(self) -> int:
        from django_celery_results.models import TaskResult

        return int(TaskResult.objects.filter(task_name=self.task_name, status__in=READY).count())

    def _has_outbox(self) -> bool:
        from shop.celery import app

        return hasattr(app.tasks[self.task_name], "enqueue")

    def _show(self, seconds: float, answered: int) -> None:
        mails = sum(self._copies().values())
        print(
            f"{self.name:>7}  {seconds:5.1f} s   {answered:4} of {len(self.ids)} events answered   "
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

        task = app.tasks[self.task_name]
        if not self._has_outbox():
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
            wiped=self.wiped,
            lost=sum(mail not in copies and mail not in doubtful for mail in self.plan.mails),
            in_doubt=len(doubtful),
            seconds=round(seconds, 1),
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)
