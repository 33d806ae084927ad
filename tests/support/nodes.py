"""pytest-celery's nodes over local processes: what it asks of a Docker container, without an engine.

`LocalContainer` is what the nodes of pytest-celery (`CeleryTestBroker`, `CeleryTestBackend`,
`CeleryTestWorker`) hold instead of a container. It drives a *part*: a private server, a worker process,
or a database file. As in Docker, a part has one main process; when that ends, so does all that it started.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Protocol
from uuid import uuid4

import psutil
import redis
from kombu import Connection, pools
from pytest_celery import (
    CeleryTestBroker,
    CeleryTestContainer,
    CeleryTestNode,
    CeleryTestWorker,
    RedisTestBackend,
)
from pytest_docker_tools.exceptions import ContainerFailed
from pytest_docker_tools.exceptions import TimeoutError as NotInTime

from tests.support.servers import Redis, Server
from tests.support.shop import Shop
from tests.support.worker import Worker, wait_for

APP = "tests.acceptance.app"
PATIENCE = 60.0
"""Seconds to wait for a part that starts, as long as pytest-celery waits for a container."""


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
            self._worker.__exit__()
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


class LocalNode(CeleryTestNode):
    """A node of pytest-celery that looks twenty times a second, and can be stopped and started."""

    def stop(self) -> None:
        """Begin an outage: everything ends at once."""
        self.container.part.stop()

    def start(self) -> None:
        """End an outage, and wait until it answers."""
        self.container.start()
        self.ready()

    def running(self) -> bool:
        """Tell whether it runs."""
        return bool(self.container.status == "running")

    def restart(self, reload_container: bool = True, force: bool = False) -> None:
        """Restart (a worker: warm, unless ``force``), and wait until it answers."""
        if force:
            self.kill(reload_container=reload_container)
        super().restart(reload_container)
        self.ready()

    def mark(self) -> int:
        """Return a place in the log, for `wait_for_log`."""
        return len(self.logs())

    def wait_for_log(self, log: str, message: str = "", timeout: float = 60, since: int = 0) -> None:
        """Wait until ``log`` was logged, after the place ``since`` if that is given."""
        why = message or f"{self.name()} did not log {log!r}"
        try:
            wait_for(lambda: log in self.logs()[since:], timeout, lambda: f"{why}: {self.logs()[-3000:]}")
        except AssertionError as error:
            # What assert_log_exists and assert_log_does_not_exist expect.
            raise NotInTime(str(error)) from None

    def assert_log_exists(self, log: str, message: str = "", timeout: float = 60) -> None:
        """Wait until ``log`` was logged, or fail with the end of the log."""
        try:
            self.wait_for_log(log, message, timeout)
        except NotInTime as error:
            raise AssertionError(str(error)) from None


class LocalBroker(LocalNode, CeleryTestBroker):
    """The broker."""

    def start(self) -> None:
        """End an outage; the app's connections were to the process before it."""
        super().start()
        self.forget()

    def restart(self, reload_container: bool = True, force: bool = False) -> None:
        """Restart, and wait until it answers."""
        super().restart(reload_container, force)
        self.forget()

    def forget(self) -> None:
        """Close this process's connections; Kombu keeps them by address, for all apps."""
        pools.reset()
        if self.app:
            self.app._after_fork()

    def purge(self, queue: str) -> None:
        """Forget every message, those that a worker has not acknowledged as well. No worker may run."""
        with self.container.client as client:
            if isinstance(client, redis.Redis):
                client.flushall()
            else:
                client.default_channel.queue_delete(queue)


class LocalBackend(LocalNode, RedisTestBackend):
    """The result backend."""

    def forget(self) -> None:
        """Close this process's connections, which the garbage collector would find open."""
        if self.app:
            self.app.backend.result_consumer.stop()
            self.app.backend.client.connection_pool.disconnect()


class LocalWorker(LocalNode, CeleryTestWorker):
    """A worker."""

    @property
    def pid(self) -> int:
        """The main process. To kill that alone, and leave its pool behind, use `os.kill`."""
        pid = self.container.part.pid
        assert pid is not None, f"{self.name()} does not run"
        return int(pid)

    def children(self) -> list[int]:
        """Return the process ids of the pool; none for threads, gevent and solo."""
        return [child.pid for child in psutil.Process(self.pid).children()]

    def ended(self, timeout: float = 30) -> None:
        """Wait until the main process has ended by itself, and end what it left behind."""
        wait_for(lambda: not self.running(), timeout, lambda: self.logs()[-3000:])
        self.container.reload()

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Return what is known of the worker's processes, the main one first."""
        main = psutil.Process(self.pid)
        found = [process.as_dict(columns) for process in [main, *main.children(recursive=True)]]
        wanted = (filters or {}).items()
        return [one for one in found if all(one.get(key) == value for key, value in wanted)]


CONSOLE = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever else is printed goes to the log
from tests.acceptance.app import *
from django.db import close_old_connections
from kombu import pools
known = dict(globals())
print("{}", file=answers)
for line in sys.stdin:
    given = {}
    close_old_connections()
    pools.reset()  # neither the broker nor the database need be the process that they were
    app._after_fork()
    try:
        exec(compile(json.loads(line), "<ask>", "exec"), {**known, "answer": lambda x: given.update(answer=x)})
        reply = json.dumps(given)
    except BaseException:
        reply = json.dumps({"error": traceback.format_exc()})
    print(reply, file=answers)
"""


@dataclass
class Console(Shop):
    """A `Shop` whose ``ask`` needs no new process each time: one runs as long as the combination."""

    _process: subprocess.Popen[str] | None = None
    _replies: Queue[str] = field(default_factory=Queue)
    _greeted: bool = False

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._greeted = False
        with (self.directory / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", CONSOLE],
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._replies = Queue()
        threading.Thread(target=self._listen, args=(self._process, self._replies), daemon=True).start()

    @staticmethod
    def _listen(process: subprocess.Popen[str], replies: Queue[str]) -> None:
        with process.stdout as stream:  # type: ignore[union-attr]
            for line in stream:
                replies.put(line)
        replies.put("")

    def stop(self) -> None:
        """End the process; the next question starts another one."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(10)
        try:
            process.stdin.close()  # type: ignore[union-attr]
        except OSError:  # something was still to be written
            pass

    def ask(self, code: str, dies: bool = False, timeout: float = 100) -> Any:
        """Run ``code`` in the project and return what it gives to ``answer()``; names do not outlive the code.

        With ``dies`` the code has to end its own process, as a publisher does that crashes.
        """
        self.greet()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        reply = self._reply(timeout)
        if dies:
            assert reply is None, f"still alive: {reply}"
            return None
        assert reply is not None, f"the process died\n{self.logs()}"
        assert "error" not in reply, reply["error"] + self.logs()
        return reply.get("answer")

    def greet(self) -> None:
        """Wait until the process answers; start one if there is none."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None:
            self.start()
        if not self._greeted:
            assert self._reply(40) is not None, f"the process did not start\n{self.logs()}"
            self._greeted = True

    def _reply(self, timeout: float) -> Any:
        """Return the next reply; None if the process has ended."""
        try:
            line = self._replies.get(timeout=timeout)
        except Empty:
            self.stop()
            raise AssertionError(f"no answer within {timeout} s\n{self.logs()}") from None
        if not line:
            self.stop()
            return None
        return json.loads(line)

    def logs(self) -> str:
        """Return the ends of the console's and the workers' logs."""
        places = [self.directory / "console.log", *sorted(self.directory.glob("worker*.log"))]
        return "".join(f"--- {place.name}\n{place.read_text()[-4000:]}\n" for place in places if place.exists())


def left_running(directory: Path) -> dict[int, str]:
    """Return the processes whose environment names ``directory``; zombies have no environment."""
    wanted = f"TEST_DIRECTORY={directory}\0".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes() + b"\0":
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found
