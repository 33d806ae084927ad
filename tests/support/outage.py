"""Orders through the outbox, while workers, the broker and the relay are killed and started again at random."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from cryptography.fernet import Fernet

from tests.support.mailserver import ScriptedSMTP
from tests.support.servers import Postgres
from tests.support.worker import Worker, environment

RELAY = ["idempotency", "relay", "--continuous", "--interval", "0.3"]


@dataclass
class Plan:
    """How much, for how long, and what breaks how often (seconds between two kills, on average)."""

    orders: int
    seconds: float
    worker_lives: float
    broker_lives: float
    relay_lives: float
    patience: float
    """Seconds after the last order within which everything has to have come to its end."""
    redeliver_after: float = 2
    seed: int = 7
    publishers: int = 1
    early_ack: bool = True
    """A message is gone from the broker as soon as a worker begins with it."""


@dataclass
class Figures:
    """What came of it. Copies are counted at the mail server.

    Each committed order is one of: delivered once, in doubt (delivered or not), delivered twice, lost.
    """

    orders: int
    rolled_back: int
    committed: int
    delivered_once: int
    """The ledger says so, and the mail server has one copy."""
    in_doubt_and_delivered: int
    """One copy; the worker was killed before it could write down the mail server's answer."""
    in_doubt_not_delivered: int
    delivered_twice: int
    lost: int
    sent_though_rolled_back: int
    waiting_in_outbox: int
    published_by_relays: int
    duplicates_answered: int
    workers_killed: int
    broker_killed: int
    relays_killed: int
    seconds: float


class Outage:
    """Runs a plan in ``directory``."""

    def __init__(self, plan: Plan, broker: Any, database: Postgres, directory: Path) -> None:
        self.plan, self.broker, self.database, self.directory = plan, broker, database, directory
        self.dice = random.Random(plan.seed)
        self.killed: Counter[str] = Counter()
        self.environment: dict[str, str] = {}
        self.workers: list[Worker] = []
        self.relays: list[subprocess.Popen[bytes]] = []

    def run(self) -> Figures:
        """Place the orders, break things meanwhile, wait for the end, and count."""
        began = time.monotonic()
        with ScriptedSMTP(dot=_slowly) as mail, ExitStack() as stack:
            self.environment = self._environment(mail.port)
            for command in (["migrate", "-v", "0"], ["flush", "--no-input", "-v", "0"]):
                assert self._manage(*command).wait(60) == 0, self._log()
            stack.callback(self._end)
            for number in range(2):
                self.workers.append(self._worker(number).__enter__())
                self.relays.append(self._manage(*RELAY))
            with self._publishers() as publishers:
                self._break_things(lambda: any(p.poll() is None for p in publishers))
            self._wait()
            return self._count(Counter(_order(received.data) for received in mail.accepted), began)

    def _environment(self, smtp_port: int) -> dict[str, str]:
        acks = {
            "task_acks_late": not self.plan.early_ack,
            "task_reject_on_worker_lost": not self.plan.early_ack,
        }
        settings = {
            "REDELIVER_AFTER": self.plan.redeliver_after,
            "ENCRYPTION_KEYS": [Fernet.generate_key().decode()],
        }
        return {
            **os.environ,
            **environment(self.directory, self.broker.url, self.database.database, smtp_port),
            "TEST_RESULTS": "disabled://",
            "TEST_CONFIG": json.dumps(acks),
            "TEST_IDEMPOTENT": json.dumps(settings),
        }

    # -- the processes -----------------------------------------------------------------------------------

    def _manage(self, *command: str) -> subprocess.Popen[bytes]:
        return self._python("-m", "tests.acceptance.manage", *command)

    def _python(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / "python.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", *arguments],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _worker(self, number: int) -> Worker:
        log = self.directory / f"worker{number}.log"
        return Worker("tests.acceptance.app", self.environment, log, "-c", "2", "-n", f"w{number}@storm")

    @contextmanager
    def _publishers(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        share = self.plan.orders // self.plan.publishers
        processes = [
            self._python(
                "-m", "tests.acceptance.intentions", str(1 + n * share), str(share), str(self.plan.seconds)
            )
            for n in range(self.plan.publishers)
        ]
        try:
            yield processes
            for process in processes:
                assert process.wait(60) == 0, self._log()
        finally:
            for process in processes:
                process.kill()

    def _end(self) -> None:
        for worker in self.workers:
            worker.kill()
        for relay in self.relays:
            relay.kill()
            relay.wait(10)

    # -- what breaks -------------------------------------------------------------------------------------

    def _break_things(self, going_on: Callable[[], bool]) -> None:
        lives = {
            self._kill_worker: self.plan.worker_lives,
            self._kill_broker: self.plan.broker_lives,
            self._kill_relay: self.plan.relay_lives,
        }
        start = time.monotonic()
        ends = {kill: start + self._span(life) for kill, life in lives.items()}
        while going_on():
            time.sleep(0.05)
            for kill, life in lives.items():
                if time.monotonic() >= ends[kill]:
                    kill()
                    ends[kill] = time.monotonic() + self._span(life)

    def _span(self, life: float) -> float:
        return self.dice.uniform(0.5, 1.5) * life

    def _kill_worker(self) -> None:
        """SIGKILL for a whole worker, pool and all, and another one in its place."""
        number = self.dice.randrange(len(self.workers))
        self.workers[number].kill()
        self.workers[number] = self._worker(number)  # nobody waits until it is ready
        self.killed["worker"] += 1

    def _kill_broker(self) -> None:
        self.broker.stop()
        self.killed["broker"] += 1
        time.sleep(self.dice.uniform(0.2, 1.5))
        self.broker.start()

    def _kill_relay(self) -> None:
        number = self.dice.randrange(len(self.relays))
        self.relays[number].send_signal(self.dice.choice([signal.SIGKILL, signal.SIGTERM]))
        self.relays[number].wait(20)
        self.relays[number] = self._manage(*RELAY)
        self.killed["relay"] += 1

    # -- afterwards --------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait until every committed order has its end, or the patience is over."""
        end = time.monotonic() + self.plan.patience
        committed = self._orders("committed")
        while time.monotonic() < end:
            ended = self._entries()
            if set(ended) >= committed and not self._waiting(ended):
                return
            time.sleep(0.5)

    def _ask(self, query: str) -> list[Any]:
        place = self.database.database
        where = f"host={place['HOST']} port={place['PORT']} user={place['USER']} dbname={place['NAME']}"
        with psycopg.connect(where) as connection:
            return connection.execute(query).fetchall()

    def _entries(self) -> dict[int, str]:
        rows = self._ask(
            "SELECT label, status FROM celery_idempotent_logicalemail WHERE status IN ('sent', 'in_doubt')"
        )
        return {int(label.split("=")[1]): status for label, status in rows}

    def _waiting(self, ended: dict[int, str]) -> int:
        """Return how many rows wait though their email is not in doubt."""
        rows = self._ask("SELECT label, tries FROM celery_idempotent_outboxmessage")
        return sum(ended.get(int(label.split("=")[1])) != "in_doubt" for label, _ in rows)

    def _orders(self, end: str) -> set[int]:
        lines = (self.directory / "ended").read_text().splitlines()
        return {int(line.split()[1]) for line in lines if line.split()[0] == end}

    def _log(self) -> str:
        return (self.directory / "python.log").read_text()[-3000:]

    def _count(self, copies: Counter[int], began: float) -> Figures:
        committed, rolled_back, ended = self._orders("committed"), self._orders("rolled-back"), self._entries()
        doubtful = {order for order in committed if ended.get(order) == "in_doubt"}
        logs = "".join(path.read_text() for path in self.directory.glob("*.log"))
        return Figures(
            orders=self.plan.orders,
            rolled_back=len(rolled_back),
            committed=len(committed),
            delivered_once=sum(copies[order] == 1 and ended.get(order) == "sent" for order in committed),
            in_doubt_and_delivered=sum(copies[order] == 1 for order in doubtful),
            in_doubt_not_delivered=sum(copies[order] == 0 for order in doubtful),
            delivered_twice=sum(copies[order] > 1 for order in committed),
            lost=sum(not copies[order] and order not in doubtful for order in committed),
            sent_though_rolled_back=len({*copies, *ended} - committed),
            waiting_in_outbox=self._waiting(ended),
            published_by_relays=sum(map(int, re.findall(r"^relay: (\d+) published", logs, re.MULTILINE))),
            duplicates_answered=logs.count(": duplicate (order="),
            workers_killed=self.killed["worker"],
            broker_killed=self.killed["broker"],
            relays_killed=self.killed["relay"],
            seconds=round(time.monotonic() - began, 1),
        )


def shown(figures: Figures) -> str:
    """Return the figures as a table."""
    return "\n".join(f"{name.replace('_', ' '):26}{value:>8}" for name, value in asdict(figures).items())


def kept(figures: Figures) -> bool:
    """Tell whether the promise held: doubt is allowed only where a process was killed."""
    processes = 2 * figures.workers_killed
    wrong = figures.delivered_twice + figures.lost + figures.sent_though_rolled_back + figures.waiting_in_outbox
    doubts = figures.in_doubt_and_delivered + figures.in_doubt_not_delivered
    return wrong == 0 and doubts <= processes and figures.delivered_once + doubts == figures.committed


def _slowly(_: str) -> str:
    time.sleep(0.01)
    return "250 queued"


def _order(data: bytes) -> int:
    return int(data.decode().rsplit("Order ", 1)[1].split()[0])
