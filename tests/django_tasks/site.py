"""A project on PostgreSQL (or SQLite) and Redis with real workers, as tests deal with it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django.core.management import call_command

from tests.support.console import Console
from tests.support.mailserver import ScriptedSMTP
from tests.support.notes import Notes
from tests.support.processes import kill_group
from tests.support.servers import Postgres, Redis
from tests.support.shop import sqlite
from tests.support.worker import environment, wait_for

DB = ["db_worker", "--interval", "0.3", "--no-startup-delay", "--queue-name", "*"]
RQ = ["rqworker", "default", "mails", "--with-scheduler", "--job-class", "django_tasks_rq.Job"]


class Site(Console, Notes):
    """Its servers and processes."""

    app = "tests.django_tasks.project"

    def __init__(
        self,
        directory: Path,
        mail: ScriptedSMTP,
        broker: Redis,
        database: Postgres | None,
        more: dict[str, str],
    ) -> None:
        self.directory, self.mail, self.broker, self.database = directory, mail, broker, database
        rows = database.database if database else sqlite(directory)
        self.environment = {
            **os.environ,
            **environment(directory, broker.url, rows, mail.port),
            "DJANGO_SETTINGS_MODULE": "tests.django_tasks.settings",
            "TEST_IDEMPOTENT": '{"LEDGER": "database"}',
            "PYTHONUNBUFFERED": "1",
            **more,
        }
        self.processes: list[subprocess.Popen[Any]] = []

    def _started(self, command: list[str], **how: Any) -> subprocess.Popen[Any]:
        process = subprocess.Popen(command, env=self.environment, start_new_session=True, **how)
        self.processes.append(process)
        return process

    @contextmanager
    def working(self, number: int = 1) -> Iterator[None]:
        """Workers of the database backend, until the end of the with block."""
        processes = db_workers(self, number)
        try:
            yield
        finally:
            self.end(processes)

    def work(self, command: list[str], ready: str, number: int = 1) -> list[subprocess.Popen[Any]]:
        """Start ``number`` workers that are started again when they die, as a supervisor does."""
        line = shlex.join([sys.executable, "-m", "django" if ready != " ready." else "celery", *command])
        log = self.directory / f"{command[0].strip('-')}.log"
        before = log.read_text().count(ready) if log.exists() else 0
        with log.open("ab") as stream:
            how = {"stdout": stream, "stderr": subprocess.STDOUT}
            loop = ["sh", "-c", f"while :; do {line}; echo ended $?; sleep 0.1; done"]
            started = [self._started(loop, **how) for _ in range(number)]
        wait_for(lambda: log.read_text().count(ready) >= before + number, 60, self.logs)
        return started

    def end(self, processes: list[subprocess.Popen[Any]]) -> None:
        """Kill the groups of ``processes``."""
        for process in processes:
            kill_group(process)
            process.communicate(timeout=10)
            self.processes.remove(process)

    def logs(self) -> str:
        """Return the ends of the workers' logs."""
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in self.directory.glob("*.log"))

    def said(self, text: str, times: int = 1, patience: float = 40) -> None:
        """Wait until the workers' logs hold ``text`` so many times."""

        def found() -> bool:
            return sum(log.read_text().count(text) for log in self.directory.glob("*.log")) >= times

        wait_for(found, patience, lambda: f"{text}\n{self.logs()}")

    def copies(self) -> int:
        """Return how many mails the server took."""
        return len(self.mail.accepted)

    def mails(self) -> list[tuple[str, str]]:
        """Return the text and Message-ID of each of them."""
        return [(mail.headers.get_payload().strip(), mail.message_id) for mail in self.mail.accepted]

    def clear(self) -> None:
        """Forget what the last test did, and start what it has left stopped."""
        self.mail.reset()
        if self.database is not None and self.database.process is None:
            self.database.start()
        self.forget()


@contextmanager
def opened(directory: Path, on_sqlite: bool = False, **more: str) -> Iterator[Site]:
    """A migrated project on servers of its own, without workers."""
    with ExitStack() as stack:
        mail, broker = (stack.enter_context(kind()) for kind in (ScriptedSMTP, Redis))
        database = None if on_sqlite else stack.enter_context(Postgres())
        site = Site(directory, mail, broker, database, more)
        stack.callback(lambda: site.end(list(site.processes)))
        stack.callback(site.stop)
        site.ask(call_command, "migrate", verbosity=0)
        yield site


def db_workers(site: Site, number: int = 2) -> list[subprocess.Popen[Any]]:
    """Start workers of the database backend."""
    return site.work(DB, "Starting worker", number)


def rq_workers(site: Site, number: int = 2) -> None:
    """Start workers of the RQ backend; they fork a process per job."""
    site.work(RQ, "Listening on", number)
