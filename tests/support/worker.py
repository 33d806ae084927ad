"""A real ``celery worker`` in a process group of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Worker:
    """Runs ``celery -A <app> worker`` until the end of the with block, and ends its whole group."""

    def __init__(self, app: str, environment: dict[str, str], log: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO"]
        command += ["--without-mingle", "--without-gossip", "--without-heartbeat", *arguments]
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Worker:
        wait_for(lambda: " ready." in self.log.read_text(), 40, lambda: self.log.read_text()[-3000:])
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)

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
    }
