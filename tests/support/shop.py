"""A project with a database, a broker, a mail server and a worker process, as tests deal with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.management import call_command

from tests.support.console import Console
from tests.support.mailserver import ScriptedSMTP
from tests.support.notes import Notes
from tests.support.servers import Redis
from tests.support.worker import Worker, environment, wait_for


@dataclass
class Shop(Console, Notes):
    """What a test deals with: it publishes and asks through one process of the project, as users do."""

    directory: Path
    server: ScriptedSMTP
    environment: dict[str, str]
    worker: Worker | None = None
    app: str = "tests.acceptance.app"

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
            shop.ask(call_command, "migrate", verbosity=0)
            with Worker(shop.app, shop.environment, directory / "worker.log", *arguments) as worker:
                shop.worker = worker
                yield shop
        finally:
            shop.stop()
