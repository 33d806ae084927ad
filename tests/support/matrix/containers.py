"""What the nodes of pytest-celery hold instead of a Docker container."""

from __future__ import annotations

import os
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from kombu import Connection
from pytest_celery import (
    CeleryTestContainer,
)
from pytest_docker_tools.exceptions import ContainerFailed

from tests.support.matrix.parts import Part, WorkerPart
from tests.support.worker import wait_for

PATIENCE = 60.0
"""Seconds to wait for a part that starts, as long as pytest-celery waits for a container."""


class LocalContainer(CeleryTestContainer):
    """What pytest-celery's nodes ask of a container, over a `Part`."""

    def __init__(self, part: Part, **celeryconfig: Any) -> None:
        self.part = part
        self._id = uuid4().hex
        self._celeryconfig = celeryconfig

    @property
    def id(self) -> str:
        """A name that no other container has."""
        return self._id

    @property
    def name(self) -> str:
        """The name of what runs."""
        return self.part.name

    @property
    def status(self) -> str:
        """``running`` or ``exited``, as of now."""
        return "running" if self.part.running() else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """What Celery has to know: ``url`` and ``host_url`` are the same here."""
        return dict(self._celeryconfig)

    @property
    def client(self) -> Any:
        """A client of the server's own kind: redis-py's, or kombu's connection."""
        url = self._celeryconfig["host_url"]
        return redis.Redis.from_url(url) if url.startswith("redis") else Connection(url)

    def logs(self) -> str:
        """Return all that was logged, over all starts."""
        return self.part.log()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send ``signal`` to the main process; SIGKILL ends everything, as it does in a container."""
        number = _number(signal)
        if number == 9:
            self.part.stop()
        elif self.part.pid is not None:
            os.kill(self.part.pid, number)

    def reload(self) -> None:
        """If the main process has ended, end what it left behind."""
        if not self.part.running():
            self.part.stop()

    def start(self) -> None:
        """Start, if it does not run."""
        self.part.start()

    def stop(self, timeout: float = 10) -> None:
        """End gently, and at once after ``timeout`` seconds."""
        self.part.end(timeout)

    def restart(self, timeout: float = 10) -> None:
        """`stop` and `start`."""
        self.stop(timeout)
        self.start()

    def ready(self) -> bool:
        """Wait until it answers; one that has exited fails at once."""

        def answers() -> bool:
            if not self.part.running():
                raise ContainerFailed(self, f"{self.name} has exited: {self.logs()[-3000:]}")
            try:
                return self.part.answers()
            except OSError:
                return False

        return bool(wait_for(answers, PATIENCE, lambda: self.logs()[-3000:]))

    def exec_run(self, *_: Any, **__: Any) -> Any:
        """There is no inside to run anything in."""
        raise NotImplementedError("a local process has no inside: use `bed.shop.ask`")

    def teardown(self) -> None:
        """End for good."""
        self.part.vanish()


def _number(name: str | int) -> int:
    """Return the number of a signal given in any of Docker's ways: 15, ``"TERM"``, ``"SIGTERM"``."""
    if isinstance(name, int):
        return name
    return signal.Signals["SIG" + name.upper().removeprefix("SIG")].value


class WorkerContainer(LocalContainer):
    """A worker, with the facts that `CeleryTestWorker` asks for."""

    def __init__(
        self, name: str, directory: Path, environment: dict[str, str], queue: str, *arguments: str
    ) -> None:
        # The host part is what CeleryTestNode.hostname makes of the id.
        self._id = uuid4().hex
        host = f"{name}@{self._id[:12]}"
        self.part: WorkerPart = WorkerPart(host, directory / f"{name}.log", environment, *arguments)
        self._celeryconfig = {}
        self._queue = queue

    def version(self) -> str:
        """Return Celery's version."""
        return version("celery")

    def log_level(self) -> str:
        """Return the worker's log level."""
        return "INFO"

    def worker_name(self) -> str:
        """Return the part of the host name before the @."""
        return self.name

    def worker_queue(self) -> str:
        """Return the queue that it consumes."""
        return self._queue
