"""A project with a database, a broker, a mail server and a worker process, as tests deal with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.mailserver import ScriptedSMTP
from tests.support.notes import Notes
from tests.support.servers import Redis
from tests.support.worker import Worker, environment, wait_for


@dataclass
class Shop(Notes):
    """What a test has to do with: it publishes and asks through processes of the project, as users do."""

    directory: Path
    server: ScriptedSMTP
    environment: dict[str, str]
    worker: Worker | None = None

    def ask(self, code: str) -> Any:
        """Run ``code`` in a process of the project and return what it gives to ``answer()``."""
        script = f"import json\nfrom tests.acceptance.app import *\ndef answer(x): print(json.dumps(x))\n{code}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr + self.logs()
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None

    def log(self) -> str:
        """Return the worker's log."""
        return (self.directory / "worker.log").read_text()

    def logs(self) -> str:
        return self.log()[-4000:]

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
        shop.ask("from django.core.management import call_command; call_command('migrate', verbosity=0)")
        with Worker("tests.acceptance.app", shop.environment, directory / "worker.log", *arguments) as worker:
            shop.worker = worker
            yield shop
