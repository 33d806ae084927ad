"""Windows, for any schedule: the number of sends is what the rule says, whatever workers and brokers do.

Time is simulated: the store's clock jumps from one step of the schedule to the next.
"""

from __future__ import annotations

import ast
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st

import celery_idempotent.core
from celery_idempotent import IdempotentTask
from celery_idempotent.core.entry import Recipient
from celery_idempotent.core.errors import ClaimLost
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Acquired, Asker, Busy, Duplicate, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.stores.memory import MemoryStore

START = datetime(2026, 3, 28, 22, tzinfo=timezone.utc)  # a night in which clocks change
LEASE, SEND_TIMEOUT = 60.0, 30.0
TARGET = ("0", Recipient("a", "a***"))


@dataclass(frozen=True)
class Delivery:
    """One delivery of a task's message, and what becomes of its run."""

    task: int
    at: float
    """Seconds after the start."""
    fate: str = "ok"
    renders: float = 0.0
    """Seconds between the claim and the hand-over."""
    sends: float = 0.0
    """Seconds that the hand-over takes."""
    ends: float = 0.0
    """Seconds between the mail server's answer and the end of the body."""
    again: float = 30.0
    """Seconds until the retry of a run that failed, or the redelivery of one that was killed."""
    waits: int = 0
    """How often it has come back already."""


FATES = (
    *("ok", "ok", "ok", "fails before", "fails after", "killed before", "killed after"),
    *("lost after", "failed and lost", "gives up"),
)


class World:
    """Workers, a broker and one email of one customer, worked off step by step."""

    def __init__(self, window: float) -> None:
        self.now = 0.0
        self.window = window
        self.ledger = Ledger(MemoryStore(lambda: START + timedelta(seconds=self.now)))
        self.policy = Policy(lease=LEASE, send_timeout=SEND_TIMEOUT, window=window)
        self.accepted: list[tuple[float, int]] = []
        self.first_seen: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self._steps: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = count()
        self._dice = random.Random(1)

    def at(self, when: float, step: Callable[[], Any]) -> None:
        heapq.heappush(self._steps, (when, next(self._order), step))

    def run(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.at(delivery.at, lambda delivery=delivery: self._go(self._deliver(delivery)))
        for _ in range(20_000):
            if not self._steps:
                return
            self.now, _, step = heapq.heappop(self._steps)
            step()
        raise AssertionError("it goes on for ever")

    def _go(self, body: Iterator[float]) -> None:
        """Go on with a run until it waits."""
        for wait in body:
            if wait:
                self.at(self.now + wait, lambda: self._go(body))
                return

    def _dithered(self, wait: float) -> float:
        """Return how long who has to come back waits, as in `conduct`."""
        return wait * self._dice.uniform(1.0, 1.1) + 0.05

    def _again(self, delivery: Delivery, wait: float) -> None:
        later = replace(delivery, at=self.now + wait)
        self.at(later.at, lambda: self._go(self._deliver(later)))

    def _deliver(self, delivery: Delivery) -> Iterator[float]:
        asker = Asker("k", "reminder", f"task-{delivery.task}")
        outcome = self.ledger.claim(asker, self.policy)
        if isinstance(outcome, Busy):
            return self._again(replace(delivery, waits=delivery.waits + 1), self._dithered(outcome.retry_after))
        self.first_seen.setdefault(delivery.task, self.now)
        if isinstance(outcome, Duplicate):
            self.ended.setdefault(delivery.task, self.now)
            return None
        assert isinstance(outcome, Acquired), outcome
        try:
            yield from self._body(delivery, asker, outcome.entry)
        except ClaimLost as lost:
            if lost.owner != asker.task_id:
                # Longer each time, or bodies that outlast a lease could take the key from each other for ever.
                wait = self._dithered(max(LEASE, min(2.0**delivery.waits, 300.0)))
                self._again(replace(delivery, fate="ok", waits=delivery.waits + 1), wait)
        return None

    def _body(self, delivery: Delivery, asker: Asker, entry: Any) -> Iterator[float]:
        """What `Run` and the mail backend do, with the worker's fate in between."""
        calm = replace(delivery, fate="ok")
        yield delivery.renders
        if delivery.fate == "killed before":
            return self._again(calm, delivery.again)
        if delivery.fate == "fails before":
            self.ledger.release(entry, self.policy, delivery.again)
            return self._again(calm, delivery.again)
        if not any(d.status is DeliveryStatus.ACCEPTED for d in entry.deliveries):
            entry = self.ledger.begin(entry, [TARGET], "<m@x>", asker, self.policy)
            yield delivery.sends
            self.accepted.append((self.now, delivery.task))
            reply = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250)}
            entry = self.ledger.settle(entry, reply, "<m@x>", asker, self.policy)
        yield delivery.ends
        if delivery.fate == "failed and lost":
            self.ledger.release(entry, self.policy, 1.0)
        if delivery.fate == "gives up":
            self.ledger.fail(entry, "ValueError")
        if delivery.fate in ("lost after", "failed and lost", "gives up"):
            self.ended.setdefault(delivery.task, self.now)  # and the broker forgets the message
        elif delivery.fate == "killed after":
            self._again(calm, delivery.again)
        elif delivery.fate == "fails after":
            self.ledger.release(entry, self.policy, delivery.again)
            self._again(calm, delivery.again)
        else:
            self.ledger.complete(entry, None)
            self.ended.setdefault(delivery.task, self.now)
        return None


seconds = st.floats(0, 2000).map(lambda value: round(value, 3))
short = st.sampled_from([0.0, 0.5, 5.0, 20.0])
deliveries = st.lists(
    st.builds(
        Delivery,
        task=st.integers(0, 6),
        at=seconds,
        fate=st.sampled_from(FATES),
        renders=st.sampled_from([0.0, 1.0, 59.0, 61.0]),
        sends=short,
        ends=st.sampled_from([0.0, 1.0, 61.0]),
        again=st.sampled_from([0.0, 1.0, 100.0, 700.0]),
    ),
    min_size=1,
    max_size=16,
)
windows = st.sampled_from([1.0, 30.0, 100.0, 500.0, 86_400.0])


@settings(max_examples=600, deadline=None)
@given(deliveries, windows)
def test_a_sliding_window_counts_from_the_last_acceptance(schedule: list[Delivery], window: float) -> None:
    """Any schedule of events, redeliveries, retries, kills and slow bodies: no send too early, none too few.

    Two acceptances are at least a window apart. A task that did not send was answered by an acceptance less
    than a window old. No task id sends twice.
    """
    world = World(window)
    world.run(schedule)
    times = [when for when, _ in world.accepted]
    assert all(later - earlier >= window - 1e-5 for earlier, later in pairwise(times)), world.accepted
    senders = Counter(task for _, task in world.accepted)
    assert set(senders.values()) <= {1}, "a task id that took part sends once, whatever the window"
    tasks = {delivery.task for delivery in schedule}
    assert set(world.ended) == tasks, "everybody gets an answer"
    for task in tasks - set(senders):
        begun, ended = world.first_seen[task], world.ended[task]
        answered = [when for when in times if begun - window - 1e-5 < when <= ended]
        assert answered, f"task {task} asked at {begun} and nobody has sent for it: {world.accepted}"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(seconds, st.integers(0, 8)), min_size=1, max_size=30), windows)
def test_the_number_of_sends_is_the_rules(events: list[tuple[float, int]], window: float) -> None:
    """Bodies that take no time: who is new and a window or more after the last send, sends."""
    world = World(window)
    world.run([Delivery(task, at) for at, task in events])
    expected, seen, last = [], set(), None
    for at, task in sorted(events, key=lambda event: event[0]):
        if task not in seen and (last is None or _micro(at) >= _micro(last) + _micro(window)):
            expected.append((at, task))
            last = at
        seen.add(task)
    assert world.accepted == expected


def _micro(value: float) -> int:
    return timedelta(seconds=value) // timedelta(microseconds=1)


app = Celery("windows", broker="memory://", backend="cache+memory://", set_as_current=False)
BUCKET = timedelta(days=1)


@app.task(
    base=IdempotentTask,
    key_fields=("user",),
    name="daily",
    window=BUCKET,
    window_mode="fixed",
    event_time_field="at",
)
def daily(user: int, at: Any) -> None: ...


zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
event = st.tuples(
    st.integers(0, 5 * 86_400), zones, st.booleans(), st.floats(0, 3 * 86_400), st.integers(0, 3), st.booleans()
)


@settings(max_examples=300, deadline=None)
@given(st.lists(event, min_size=1, max_size=20))
def test_fixed_windows_count_buckets_of_the_events_time(events: list[Any]) -> None:
    """One send for each bucket in which something happened, whenever and however often it is worked off.

    The zone that an event's time is written in, text or not, delays of days and retries after midnight change
    nothing: the key is computed at publish.
    """
    schedules: dict[str, list[Delivery]] = {}
    for number, (second, zone, as_text, delay, redelivered, fails) in enumerate(events):
        moment = (START + timedelta(seconds=second)).astimezone(zone)
        key = daily.key_for(1, moment.isoformat() if as_text else moment)
        first = Delivery(number, second + delay, "fails before" if fails else "ok", again=90_000.0)
        again = [replace(first, fate="ok", at=first.at + 40_000.0 * n) for n in range(1, redelivered)]
        schedules.setdefault(key, []).extend([first, *again])
    sends = 0
    for schedule in schedules.values():
        world = World(1.0)
        world.policy = replace(world.policy, window=None)  # the window is in the key
        world.run(schedule)
        sends += len(world.accepted)
    buckets = {int((START + timedelta(seconds=second)).timestamp()) // 86_400 for second, *_ in events}
    assert sends == len(schedules) == len(buckets)


def test_a_task_of_an_earlier_window_is_answered_in_the_middle_of_a_new_one() -> None:
    """It took part then: it neither sends now nor waits for whoever sends."""
    world = World(100.0)
    world.run([Delivery(1, 0), Delivery(2, 200, "killed before", again=500.0), Delivery(1, 300)])
    assert world.accepted == [(0.0, 1), (700.0, 2)]


@pytest.mark.parametrize("fate", ["lost after", "failed and lost", "gives up"])
def test_an_acceptance_counts_even_if_its_run_had_no_end(fate: str) -> None:
    """Sent, and the worker died with the message: a day later the next reminder goes out all the same."""
    world = World(86_400.0)
    world.run([Delivery(1, 0, fate), Delivery(2, 86_399), Delivery(3, 86_400), Delivery(4, 90_000)])
    assert world.accepted == [(0.0, 1), (86_400.0, 3)]
    world = World(86_400.0)
    world.run([Delivery(1, 0, fate), Delivery(2, 86_400), Delivery(3, 90_000), Delivery(1, 90_001)])
    assert world.accepted == [(0.0, 1), (86_400.0, 2)]


def test_the_core_asks_no_clock_but_the_stores() -> None:
    """Clock skew between workers cannot matter: no decision reads a worker's clock."""
    folder = Path(celery_idempotent.core.__file__).parent
    asked = [
        f"{path.name}:{node.lineno}"
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today", "time", "monotonic")
        if isinstance(node.value, ast.Name) and node.value.id in ("datetime", "date", "time")
    ]
    assert asked == []


def test_an_entry_remembers_the_newest_who_took_part() -> None:
    """An entry does not grow without end: 256 of a generation, and 256 of all before it."""
    now = [START]
    ledger = Ledger(MemoryStore(lambda: now[0]))
    rules = Policy(window=60.0, opaque=True)

    def ask(number: int) -> Any:
        return ledger.claim(Asker("k", "reminder", f"task-{number}"), rules)

    ledger.complete(ask(0).entry, None)
    for number in range(1, 300):
        assert isinstance(ask(number), Duplicate)
    newest = tuple(f"task-{number}" for number in range(44, 300))
    assert ledger.store.get("k").entry.participants == newest  # type: ignore[union-attr]
    now[0] += timedelta(minutes=2)
    again = ask(300)
    assert isinstance(again, Acquired)
    ledger.complete(again.entry, None)
    assert set(newest[1:]) < set(again.entry.past)
    assert len(again.entry.past) == 256
    now[0] += timedelta(minutes=2)
    assert isinstance(ask(299), Duplicate)
    assert isinstance(ask(1), Acquired), "forgotten, and so it counts as new"
