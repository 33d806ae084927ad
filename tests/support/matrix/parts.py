"""What a local container drives: a private server, a worker process, or a database file.

As in Docker, a part has one main process; when that ends, so does all that it started.
"""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path
from typing import Protocol

from tests.support.servers import Redis, Server
from tests.support.worker import Worker

APP = "tests.acceptance.app"


class DurableRedis(Redis):
    """A Redis that remembers after a kill: each command is written to its file before it is answered."""

    def command(self) -> list[str]:
        # "no" leaves the fsync to the system: the write itself is never put off, and only a power cut loses it.
        return [*super().command(), "--appendonly", "yes", "--appendfsync", "no"]


class Part(Protocol):
    """What a `LocalContainer` drives."""

    name: str

    @property
    def pid(self) -> int | None:
        """The main process; None while there is none."""

    def start(self) -> None:
        """Start; need not wait until it answers."""

    def stop(self) -> None:
        """End everything at once."""

    def end(self, timeout: float) -> None:
        """End as its own users would, and at once after ``timeout`` seconds."""

    def running(self) -> bool:
        """Tell whether it has been started and has not ended."""

    def answers(self) -> bool:
        """Tell whether it can be used by now."""

    def log(self) -> str:
        """Return all that was logged, over all starts."""

    def vanish(self) -> None:
        """End for good."""


class ServerPart:
    """A private server. A ``shared`` one outlives its node: at the end it is only made sure that it runs."""

    def __init__(self, name: str, server: Server, shared: bool = False) -> None:
        self.name = name
        self.server = server
        self.shared = shared

    @property
    def pid(self) -> int | None:
        process = self.server.process
        return process.pid if process else None

    def start(self) -> None:
        if not self.running():
            self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def end(self, timeout: float) -> None:
        self.server.stop()

    def running(self) -> bool:
        process = self.server.process
        return process is not None and process.poll() is None

    def answers(self) -> bool:
        return self.server.answers()

    def log(self) -> str:
        path = Path(self.server.directory, "log")
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def vanish(self) -> None:
        if not self.shared:
            self.server.__exit__()
        elif not self.running():
            self.server.stop()  # whatever is left of one that died by itself
            self.server.start()


class WorkerPart:
    """A ``celery worker``. ``environment`` is read at each start, so a test may change it in between."""

    def __init__(self, host: str, log: Path, environment: dict[str, str], *arguments: str) -> None:
        self.name = host.split("@")[0]
        self.environment = environment
        self._arguments = ("-n", host, *arguments)
        self._log = log
        self._log.touch()
        self._since = 0
        self._worker: Worker | None = None

    @property
    def pid(self) -> int | None:
        return self._worker.process.pid if self._worker else None

    def start(self) -> None:
        if self.running():
            return
        self.stop()
        self._since = self._log.stat().st_size
        self._worker = Worker(APP, self.environment, self._log, *self._arguments)

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def end(self, timeout: float) -> None:
        if self._worker is not None and self.running():
            self._worker.process.terminate()
            try:
                self._worker.process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        self.stop()

    def running(self) -> bool:
        return self._worker is not None and self._worker.process.poll() is None

    def answers(self) -> bool:
        with self._log.open("rb") as stream:
            stream.seek(self._since)
            return b" ready." in stream.read()

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def vanish(self) -> None:
        self.stop()


class FilePart:
    """An SQLite file in a directory of its own.

    Its outage: the directory is elsewhere, so nobody can open the file, and it is locked against those who
    have it open. They notice when SQLite's timeout has passed.
    """

    pid = None

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        self.file = file
        self.directory = file.parent
        self._away = self.directory.with_suffix(".away")
        self._lock: sqlite3.Connection | None = None

    def start(self) -> None:
        if not self.running():
            self._away.rename(self.directory)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def stop(self) -> None:
        if self.running():
            self._lock = sqlite3.connect(self.file, timeout=20, isolation_level=None, check_same_thread=False)
            self._lock.execute("BEGIN EXCLUSIVE")
            self.directory.rename(self._away)

    def end(self, timeout: float) -> None:
        self.stop()

    def running(self) -> bool:
        return self.directory.exists()

    def answers(self) -> bool:
        return self.running()

    def log(self) -> str:
        return ""

    def vanish(self) -> None:
        self.start()
