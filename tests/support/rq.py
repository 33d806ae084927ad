"""A project whose jobs run in real ``rq worker`` processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from django.core.management import call_command

from tests.support.mailserver import ScriptedSMTP
from tests.support.servers import Redis
from tests.support.shop import Shop, sqlite
from tests.support.worker import Process, environment

APP = "tests.rq.app"
FORKING = "rq.Worker"
SIMPLE = "rq.SimpleWorker"
SPAWNING = "rq.SpawnWorker"
orders = itertools.count(1000)
"""Numbers of orders that no other test has."""


class RQWorker(Process):
    """An RQ worker or scheduler. It ends with its work-horses, which have process groups of their own."""

    ready = "Listening on"

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        super().__init__(command, {**environment, "PYTHONPATH": os.getcwd()}, log)

    def kill(self) -> None:
        """End worker, scheduler and work-horses at once."""
        try:
            whole = psutil.Process(self.process.pid)
            family = [whole, *whole.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait(10)


@dataclass
class RQShop(Shop):
    """A shop whose jobs RQ's workers run."""

    redis: Redis | None = None

    def worker_of(self, *arguments: str, kind: str = FORKING) -> RQWorker:
        """Return another worker, to be used in a with block."""
        # -c imports the project before the first job, and not in every work-horse.
        command = ["rq.cli", "worker", "--url", self.environment["TEST_BROKER"], "-w", kind, "-c", APP]
        command += arguments or ("emails", "--with-scheduler")
        return RQWorker(command, self.environment, self.directory / "worker.log")

    def scheduler(self) -> RQWorker:
        """Return RQ's scheduler as a process of its own."""
        return RQWorker(["tests.rq.scheduler"], self.environment, self.directory / "worker.log")

    def managed_worker(self, *arguments: str) -> RQWorker:
        """Return a ``manage.py rqworker``."""
        return RQWorker(["django", "rqworker", *arguments], self.environment, self.directory / "worker.log")


def clean(shop: RQShop) -> RQShop:
    """Return ``shop`` with its mail server as at first, its notes forgotten."""
    shop.server.reset()
    shop.forget()
    return shop


@contextmanager
def opened(
    directory: Path, database: dict[str, Any] | None = None, app: str = APP, **more: str
) -> Iterator[RQShop]:
    """A migrated project with a Redis to itself for its jobs; no worker yet."""
    with ScriptedSMTP() as server, Redis() as broker:
        where = environment(directory, broker.url, database or sqlite(directory), server.port)
        shop = RQShop(directory, server, {**where, **more}, app=app, redis=broker)
        try:
            shop.ask(call_command, "migrate", verbosity=0)
            yield shop
        finally:
            shop.stop()


def redis_ledger(url: str, **more: Any) -> dict[str, str]:
    """Return the environment of a project with its ledger in Redis."""
    return {"TEST_IDEMPOTENT": json.dumps({"MESSAGE_ID_DOMAIN": "shop.example.com", "LEDGER": url, **more})}
