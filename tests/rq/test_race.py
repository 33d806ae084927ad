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

from tests.support.rq import FORKING, SIMPLE, RQShop, RQWorker, opened, redis_ledger
from tests.support.servers import Postgres, Redis
from tests.support.worker import Worker

KEYS = 1000
KILLS = 6
"""Of each kind: a process of Celery's pool, an RQ work-horse, a whole RQ worker."""

ENQUEUE = """
import random
numbers = list(range({keys}))
random.Random(1).shuffle(numbers)
with celery_shop.app.producer_or_acquire() as producer:
    for n in numbers:
        celery_shop.confirm.apply_async((n,), producer=producer)
random.Random(2).shuffle(numbers)
emails.enqueue_many([Queue.prepare_data(confirm, (n,), retry=Retry(20)) for n in numbers])
"""


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


def kill_one(pids: list[int]) -> bool:
    """SIGKILL one of ``pids``, and tell whether there was one."""
    if not pids:
        return False
    try:
        os.kill(random.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def sent(shop: RQShop) -> Counter[int]:
    """Return how many copies of each order's mail the server took."""
    found = (re.search(rb"^Order (\d+)", received.data, re.M) for received in list(shop.server.accepted))
    return Counter(int(match[1]) for match in found if match)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_celery_worker_and_rq_workers_at_the_same_keys(kind: str, tmp_path: Path) -> None:
    """P1, P2: one copy each; where somebody was killed inside a hand-over, in doubt and one copy at most."""
    with place(kind, tmp_path) as shop:
        shop.ask(ENQUEUE.format(keys=KEYS))
        celery = Worker("tests.acceptance.app", shop.environment, tmp_path / "celery.log", "-c", "2")
        with Fleet(shop, [SIMPLE, FORKING]) as fleet, celery:
            kills = race(shop, celery, fleet)
        copies = sent(shop)
        entries = shop.ask(f"""
found = [confirm.entry_for(n) for n in range({KEYS})]
answer([[entry.status.value, "@" in entry.owner] for entry in found])
""")
    doubtful = {n for n, (status, _) in enumerate(entries) if status == "in_doubt"}
    assert kills == Counter(pool=KILLS, horse=KILLS, simple=KILLS)
    assert {status for status, _ in entries} <= {"sent", "in_doubt"}
    assert len({by_rq for _, by_rq in entries}) == 2, "one of the queues sent nothing: that was no race"
    assert len(doubtful) <= sum(kills.values())
    assert {n: copies[n] for n in range(KEYS) if n not in doubtful} == dict.fromkeys(
        set(range(KEYS)) - doubtful, 1
    )
    assert all(copies[n] <= 1 for n in doubtful)


def race(shop: RQShop, celery: Worker, fleet: Fleet) -> Counter[str]:
    """Kill someone every now and then, until nothing is left to do; return who was killed how often."""
    kills: Counter[str] = Counter()
    end = time.monotonic() + 150
    while sum(kills.values()) < KILLS * 3 or not over(shop):
        assert time.monotonic() < end, (kills, len(sent(shop)), shop.ask("answer(left())"), shop.logs())
        due = len(shop.server.accepted) * KILLS * 3 / (KEYS * 0.9)
        if sum(kills.values()) < min(due, KILLS * 3):
            name, pids = [
                ("pool", celery.children()),
                ("horse", fleet.horses()),
                ("simple", fleet.simple()),
            ][sum(kills.values()) % 3]
            kills[name] += kill_one(pids)
        fleet.supervise()
        time.sleep(0.01)
    return kills


def over(shop: RQShop) -> bool:
    """Tell whether nothing is left in either queue; what killed RQ workers have left is given to others."""
    celery, unacked, waiting, *under_way = shop.ask("answer(left())")
    if celery or unacked or waiting or not any(under_way):
        return not (celery or unacked or waiting or any(under_way))
    shop.ask("tidy()")
    return False
