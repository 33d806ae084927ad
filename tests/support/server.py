"""A private server on a free port of 127.0.0.1, with a data directory that vanishes with it."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from glob import glob
from itertools import cycle, islice
from typing import Any

from tests.support.processes import kill_group


def _ports() -> Iterator[int]:
    """Yield this test process's share of the ports, in any order, again and again.

    Below the range that outgoing connections are given, and none that another process of the same run is given:
    nobody takes one before its server listens, or during an outage.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = range(15_000 + number, 32_000, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    return cycle(random.sample(share, len(share)))


_PORTS = _ports()


def free_port() -> int:
    """Return a port that was free a moment ago, and that this process was not given for thousands of calls."""
    for port in islice(_PORTS, 200):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise RuntimeError("no free port between 15000 and 32000")


def find(command: str, *patterns: str) -> str:
    """Return the path of ``command``, or raise with the way to get it."""
    for pattern in patterns:
        if places := sorted(glob(pattern)):
            return places[-1]
    place = shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if place is None:
        raise RuntimeError(f"{command} is not installed: run scripts/servers")
    return place


class Server:
    """One server process and its data directory. ``stop`` and ``start`` make an outage."""

    user: str | None = None
    patience = 30.0
    ending: signal.Signals = signal.SIGKILL
    """What ends the server at once; after five seconds its process group is killed anyway."""

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-", dir="/tmp")
        self.account: str | None = None
        if self.user and os.geteuid() == 0:
            self.account = self.user
            shutil.chown(self.directory, self.user)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Any:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def prepare(self) -> None:
        """Make the data directory ready."""

    def command(self) -> list[str]:
        """Return what to run."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Tell whether the server is ready."""
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def run(self, command: list[str]) -> None:
        """Run a helper program to its end, as the server's account."""
        done = subprocess.run(command, **self._how(), capture_output=True, check=False)  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).decode()[-2000:]}")

    def _how(self) -> dict[str, Any]:
        how: dict[str, Any] = {"cwd": self.directory, "env": {**os.environ, **self.environment()}}
        if self.account:
            entry = pwd.getpwnam(self.account)
            how.update(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
        return how

    def environment(self) -> dict[str, str]:
        """Return additions to the environment."""
        return {"HOME": self.directory}

    def start(self) -> None:
        """Start and wait until it answers."""
        with open(f"{self.directory}/log", "ab") as log:
            how = self._how()
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, **how
            )
        self._wait(self.answers)

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + self.patience
        while True:
            try:
                if condition():
                    return
            except Exception as error:
                last: object = error
            else:
                last = "no"
            assert self.process is not None
            if time.monotonic() > end or self.process.poll() is not None:
                with open(f"{self.directory}/log", encoding="utf-8", errors="replace") as log:
                    raise RuntimeError(f"{type(self).__name__} does not answer ({last}): {log.read()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the whole process group."""
        if self.process is None:
            return
        if self.process.poll() is None and self.ending is not signal.SIGKILL:
            self.process.send_signal(self.ending)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        kill_group(self.process)
        self.process = None
