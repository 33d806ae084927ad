"""Real workers: processes that say when they are ready, and end with all that they have started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.processes import kill_group

if TYPE_CHECKING:
    from typing_extensions import Self


class Process:
    """Runs ``python -m <command>`` in a process group of its own until the end of the with block.

    That begins once the process has logged that it is ``ready``.
    """

    ready: str

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**os.environ, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        try:
            wait_for(lambda: self.ready in self.said() or self.process.poll() is not None, 40, self.said)
            assert self.process.poll() is None, self.said()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def said(self) -> str:
        """Return what is in the log since this process began."""
        return self.log.read_bytes()[self._start :].decode(errors="replace")

    def kill(self) -> None:
        """End the whole group at once."""
        kill_group(self.process)


class Worker(Process):
    """``celery -A <app> worker``."""

    ready = " ready."

    def __init__(self, app: str, environment: dict[str, str], log: Path, *arguments: str) -> None:
        command = ["celery", "-A", app, "worker", "-l", "INFO"]
        command += ["--without-mingle", "--without-gossip", "--without-heartbeat", *arguments]
        super().__init__(command, environment, log)

    def children(self) -> list[int]:
        """Return the process ids of the pool."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(line) for line in found.stdout.split()]


def wait_for(condition: Callable[[], Any], timeout: float = 30, why: Callable[[], str] = str) -> Any:
    """Return the first true value of ``condition``, or fail with ``why`` after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout} s: {why()}")


def environment(directory: Path, broker: str, database: dict[str, Any], smtp_port: int) -> dict[str, str]:
    """Return the environment of `tests.acceptance.app`."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_DATABASE": json.dumps(database),
        "TEST_DIRECTORY": str(directory),
        "TEST_BROKER": broker,
        "TEST_SMTP_PORT": str(smtp_port),
        "TEST_FIRST_DEFERRAL": "0.1",
        "TEST_URLCONF": "tests.support.no_urls",
    }
