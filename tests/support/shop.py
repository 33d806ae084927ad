"""A project with a database, a broker, a mail server and a worker process, as tests deal with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.support.mailserver import ScriptedSMTP
from tests.support.notes import Notes
from tests.support.processes import kill_group
from tests.support.servers import Redis
from tests.support.worker import Worker, environment, wait_for

CONSOLE = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever else is printed goes to the log
from {app} import *
from django.db import close_old_connections
from celery import current_app as celery
from kombu import pools
known = dict(globals())
print("{{}}", file=answers)
for line in sys.stdin:
    given = {{}}
    close_old_connections()
    pools.reset()  # neither the broker nor the database need be the process that they were
    celery._after_fork()
    try:
        names = {{**known, "answer": lambda x: given.update(answer=x)}}
        exec(compile(json.loads(line), "<ask>", "exec"), names)
        reply = json.dumps(given)
    except BaseException:
        reply = json.dumps({{"error": traceback.format_exc()}})
    print(reply, file=answers)
"""


@dataclass
class Shop(Notes):
    """What a test deals with: it publishes and asks through one process of the project, as users do."""

    directory: Path
    server: ScriptedSMTP
    environment: dict[str, str]
    worker: Worker | None = None
    app: str = "tests.acceptance.app"
    """The project's module: a question knows its names."""

    _process: subprocess.Popen[str] | None = None
    _replies: Queue[str] = field(default_factory=Queue)
    _greeted: bool = False

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._greeted = False
        with (self.directory / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", CONSOLE.format(app=self.app)],
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
        kill_group(process)
        try:
            process.stdin.close()  # type: ignore[union-attr]
        except OSError:  # something was still to be written
            pass

    def end(self) -> None:
        """End the process as an exit does: SQLite writes what is in its log into the file."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(10)
        self.stop()

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

    def log(self) -> str:
        """Return the worker's log."""
        return (self.directory / "worker.log").read_text()

    def logs(self) -> str:
        """Return the ends of the console's and the workers' logs."""
        places = [self.directory / "console.log", *sorted(self.directory.glob("worker*.log"))]
        return "".join(f"--- {place.name}\n{place.read_text()[-4000:]}\n" for place in places if place.exists())

    def said(self, text: str, times: int = 1, since: int = 0) -> None:
        """Wait until the worker's log, from the length ``since`` on, holds ``text`` so many times."""
        wait_for(lambda: self.log()[since:].count(text) >= times, 30, lambda: f"{text}\n{self.logs()}")

    def copies(self) -> int:
        """Return how many mails the server took."""
        return len(self.server.accepted)


def sqlite(directory: Path) -> dict[str, Any]:
    """Return a database in a file."""
    options = {"timeout": 30, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=wal"}
    name = str(directory / "shop.sqlite3")
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}


@contextmanager
def opened(
    directory: Path,
    database: dict[str, Any],
    *arguments: str,
    mail: ScriptedSMTP | None = None,
    **more: str,
) -> Iterator[Shop]:
    """A migrated project on ``database`` with a Redis to itself as the broker, and one worker."""
    with mail or ScriptedSMTP() as server, Redis() as broker:
        shop = Shop(directory, server, {**environment(directory, broker.url, database, server.port), **more})
        try:
            shop.ask("from django.core.management import call_command; call_command('migrate', verbosity=0)")
            with Worker(shop.app, shop.environment, directory / "worker.log", *arguments) as worker:
                shop.worker = worker
                yield shop
        finally:
            shop.stop()
