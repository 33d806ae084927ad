"""What a storm rages against: a mail server, workers, the outbox's relay, and a broker's folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from .plan import Mail

HERE = Path(__file__).resolve().parents[1]
WORKERS = 2


class NotReady(Exception):
    """Raised when a worker does not come up before the time is over."""


class Crew:
    """Runs while it is entered. What it writes goes to ``folder``; the broker's folder is emptied first."""

    def __init__(self, name: str, folder: Path, broker: Path, seed: int) -> None:
        self.name, self.folder, self.broker = name, folder, broker
        self.busy = folder / "busy"
        self.busy.mkdir(parents=True)
        self.record = folder / "sink.jsonl"
        self.record.touch()
        self.published = folder / "published.jsonl"
        self.published.touch()
        self.relay_log = folder / "relay.log"
        self.relay_log.touch()
        self.workers: list[subprocess.Popen[bytes]] = []
        self._seed = seed
        self._environment: dict[str, str] = {}
        self._running = ExitStack()

    def __enter__(self) -> Crew:
        shutil.rmtree(self.broker, ignore_errors=True)
        for name in ("queue", "taken", "control"):
            (self.broker / name).mkdir(parents=True)
        with ExitStack() as stack:
            self._environment = {"SHOP_EMAIL_PORT": self._sink(stack), "SHOP_BUSY_FOLDER": str(self.busy)}
            stack.callback(self._kill_workers)
            for number in range(WORKERS):
                self.workers.append(self._worker(number))
            self._running = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def wait_until_ready(self, deadline: float) -> None:
        """Wait for the workers until ``deadline``. Raises `NotReady` where one does not come up."""
        while time.monotonic() < deadline:
            if all(" ready." in self._log(number).read_text() for number in range(WORKERS)):
                return
            if any(worker.poll() is not None for worker in self.workers):
                break
            time.sleep(0.1)
        raise NotReady(f"a worker did not start in time; its log is in {self.folder}")

    def start_relay(self) -> None:
        """Start the process that publishes again what the broker has lost."""
        command = [sys.executable, str(HERE / "manage.py"), "idempotency", "relay"]
        command += ["--continuous", "--interval", "0.5"]
        self._running.callback(kill, self._started(command, self.relay_log, SHOP_LOG_LEVEL="INFO"))

    def events_out(self) -> list[tuple[str, Mail]]:
        """Return what the publishers have published so far: each task's id, and its mail."""
        text = self.published.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [(task_id, (order, to)) for task_id, (order, to) in rows]

    def replace_worker(self, number: int) -> None:
        """Kill a worker with all its processes, and start another one in its place."""
        kill(self.workers[number])
        self.workers[number] = self._worker(number)

    def _sink(self, stack: ExitStack) -> str:
        """Start the mail server and return its port."""
        command = [sys.executable, str(HERE / "storm" / "sink.py"), str(self.record), str(self._seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def _worker(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--loglevel=INFO"]
        command += ["--pool=prefork", "--concurrency=2", f"--hostname={self.name}{number + 1}@demo"]
        command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        return self._started(command, self._log(number))

    def _started(self, command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as stream:
            return subprocess.Popen(
                command,
                cwd=HERE,
                env={**os.environ, **self._environment, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, number: int) -> Path:
        return self.folder / f"worker{number + 1}.log"

    def _kill_workers(self) -> None:
        for worker in self.workers:
            kill(worker)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End ``process`` and all that it started, with no time for anything."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)
