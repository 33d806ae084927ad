"""A Celery worker and RQ workers at the same thousand keys, from both sides, with kills."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.rq import race_questions
from tests.rq.app import left, tidy
from tests.support.rq import FORKING, SIMPLE, RQShop, RQWorker, opened, redis_ledger
from tests.support.servers import Postgres, Redis
from tests.support.tiers import sized
from tests.support.worker import Worker

KEYS = sized(test=120, all=1000)
EACH = sized(test=1, all=4)
"""How often each of these is struck: a process of Celery's pool, an RQ work-horse, a whole RQ worker; and any
of them, with a pause in a body that has not begun to send."""
KINDS = ("pool", "horse", "simple", "pause")
PAUSE = 10.0
"""Seconds at most: a paused process wakes up as soon as another one has sent its mail."""

BATCH = 10
"""Keys given to both queues at a time: a job that comes back is not to wait behind all others."""


@contextmanager
def place(kind: str, directory: Path) -> Iterator[RQShop]:
    """One Redis as the broker of both, and a ledger that both share."""
    transport = {"TEST_TRANSPORT": '{"visibility_timeout": 600}', "TEST_RESULTS": "disabled://"}
    if kind == "postgres":
        with Postgres() as server, opened(directory, server.database, **transport) as shop:
            yield shop
    else:
        with Redis() as ledger, opened(directory, **redis_ledger(ledger.url), **transport) as shop:
            yield shop


class Fleet:
    """RQ workers under supervision: who was killed is started again."""

    def __init__(self, shop: RQShop, kinds: list[str]) -> None:
        self.workers: list[RQWorker] = []
        self._shop = shop
        self._kinds = kinds

    def __enter__(self) -> Fleet:
        self.workers = [self._shop.worker_of("emails", kind=kind) for kind in self._kinds]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()

    def supervise(self) -> None:
        """Start again who has died."""
        for place, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                worker.kill()
                self.workers[place] = self._shop.worker_of("emails", kind=self._kinds[place])

    def horses(self) -> list[int]:
        """Return the process ids of the work-horses."""
        return [pid for worker in self.workers for pid in _children(worker.process.pid)]

    def simple(self) -> list[int]:
        """Return the process ids of the workers that fork no work-horses."""
        return [w.process.pid for w, kind in zip(self.workers, self._kinds, strict=True) if kind == SIMPLE]


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


class Striker:
    """Kills and pauses processes, in turns, as the mails come in."""

    def __init__(self, shop: RQShop, celery: Worker, fleet: Fleet) -> None:
        self.struck: Counter[str] = Counter()
        self._shop = shop
        self._celery = celery
        self._fleet = fleet
        self._paused: list[tuple[int, int, float]] = []  # process, order, until when at most
        self.overtaken = 0

    @property
    def done(self) -> bool:
        """Whether everybody has been struck and nobody is paused any more."""
        all_paused = len(self._paused) == self.struck["pause"]
        return self.struck.total() == EACH * len(KINDS) and all_paused and not self._stopped()

    def strike(self, mails: int) -> None:
        """Do what is due when ``mails`` have been sent."""
        self._wake()
        if self.struck.total() >= min(mails * EACH * len(KINDS) / (KEYS * 0.9), EACH * len(KINDS)):
            return
        kind = KINDS[self.struck.total() % len(KINDS)]
        if kind == "pause":
            self._shop.pause_at("in-body")
            self.struck[kind] += 1
            return
        family = {"pool": self._celery.children, "horse": self._fleet.horses, "simple": self._fleet.simple}
        awake = [pid for pid in family[kind]() if pid not in self._stopped()]
        if awake and _signal(random.choice(awake), signal.SIGKILL):
            self.struck[kind] += 1

    def _stopped(self) -> list[int]:
        return [pid for pid, _, until in self._paused if until > time.monotonic()]

    def _wake(self) -> None:
        for pid in self._shop.paused()[len(self._paused) :]:
            order = next(int(n) for _, n, by in map(str.split, reversed(self._shop.bodies())) if int(by) == pid)
            self._paused.append((pid, order, time.monotonic() + PAUSE))
        mails = sent(self._shop) if self._stopped() else Counter()
        for place, (pid, order, until) in enumerate(self._paused):
            if until and (mails[order] or until <= time.monotonic()):
                self.overtaken += bool(mails[order])
                self._paused[place] = (pid, order, 0)
                _signal(pid, signal.SIGCONT)


def _signal(pid: int, what: signal.Signals) -> bool:
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True


def sent(shop: RQShop) -> Counter[int]:
    """Return how many copies of each order's mail the server took."""
    found = (re.search(rb"^Order (\d+)", received.data, re.M) for received in list(shop.server.accepted))
    return Counter(int(match[1]) for match in found if match)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["redis", pytest.param("postgres", marks=pytest.mark.full)])
def test_a_celery_worker_and_rq_workers_at_the_same_keys(kind: str, tmp_path: Path) -> None:
    """P1, P2: one copy each; where somebody was killed inside a hand-over, in doubt and one copy at most."""
    with place(kind, tmp_path) as shop:
        shop.ask(race_questions.raise_the_barrier)
        celery = Worker("tests.acceptance.app", shop.environment, tmp_path / "celery.log", "-c", "2")
        with shop.scheduler(), Fleet(shop, [SIMPLE, SIMPLE, FORKING]) as fleet, celery:
            striker = Striker(shop, celery, fleet)
            race(shop, fleet, striker)
        copies = sent(shop)
        entries = shop.ask(race_questions.look, KEYS)
    doubtful = {n for n, (status, _) in enumerate(entries) if status == "in_doubt"}
    assert striker.struck == dict.fromkeys(KINDS, EACH)
    assert striker.overtaken, "nobody sent in the place of a paused process"
    assert {status for status, _ in entries} <= {"sent", "in_doubt"}
    assert len({by_rq for _, by_rq in entries}) == 2, "one of the queues sent nothing: that was no race"
    assert len(doubtful) <= EACH * len(KINDS)
    assert {n: copies[n] for n in range(KEYS) if n not in doubtful} == dict.fromkeys(
        set(range(KEYS)) - doubtful, 1
    )
    assert all(copies[n] <= 1 for n in doubtful)


def race(shop: RQShop, fleet: Fleet, striker: Striker) -> None:
    """Give both queues the same keys and strike someone every now and then, until nothing is left to do."""
    end = time.monotonic() + 240
    batches = iter(range(0, KEYS, BATCH))
    start: int | None = 0
    while True:
        assert time.monotonic() < end, (
            striker.struck,
            len(sent(shop)),
            shop.ask(left),
            shop.logs(),
        )
        celery, unacked, waiting, *under_way = shop.ask(left)
        if waiting < BATCH and (start := next(batches, None)) is not None:
            shop.ask(race_questions.give_both, start, BATCH)
        elif start is None and not (celery or unacked or waiting):
            if striker.done and not any(under_way):
                return
            shop.ask(tidy)  # what killed RQ workers have left is given to others
        striker.strike(len(shop.server.accepted))
        fleet.supervise()
        time.sleep(0.01)
