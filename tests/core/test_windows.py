"""Windows, for any schedule: the number of sends is what the rule says, whatever workers and brokers do.

Time is simulated: the store's clock jumps from one step of the schedule to the next.
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import replace
from datetime import timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st

import celery_idempotent.core
from celery_idempotent import IdempotentTask
from celery_idempotent.core.generations import next_generation
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Acquired, Asker, Duplicate, Policy
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import make_entry
from tests.core.world import FATES, START, Delivery, World

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


class Alert:
    """An email that goes out once a minute, by other means than mail."""

    def __init__(self) -> None:
        self.now = START
        self.ledger = Ledger(MemoryStore(lambda: self.now))
        self.rules = Policy(window=60.0, opaque=True)

    def ask(self, number: int) -> Any:
        return self.ledger.claim(Asker("k", "reminder", f"task-{number}"), self.rules)

    def send(self, number: int) -> Any:
        """Let the window pass, and have the task of this number send."""
        self.now += timedelta(minutes=2)
        outcome = self.ask(number)
        assert isinstance(outcome, Acquired)
        return self.ledger.complete(outcome.entry, None)


def test_an_entry_remembers_the_newest_who_took_part() -> None:
    """An entry does not grow without end: 256 of a generation, and 256 duplicates of all before it."""
    alert = Alert()
    ask = alert.ask
    alert.send(0)
    for number in range(1, 300):
        assert isinstance(ask(number), Duplicate)
    newest = tuple(f"task-{number}" for number in range(44, 300))
    assert alert.ledger.store.get("k").entry.participants == newest  # type: ignore[union-attr]
    assert alert.send(300).past == (*newest, "task-0")
    alert.now += timedelta(minutes=2)
    assert isinstance(ask(299), Duplicate)
    assert isinstance(ask(1), Acquired), "forgotten, and so it counts as new"


def test_duplicates_do_not_push_the_senders_out() -> None:
    """P1: whoever sent in an earlier window is remembered, however many have been answered since."""
    alert = Alert()
    for number in (0, 1000, 2000, 3000):
        alert.send(number)
        for duplicate in range(1, 300):
            assert isinstance(alert.ask(number + duplicate), Duplicate)
    alert.now += timedelta(minutes=2)
    for sender in (0, 1000, 2000, 3000):
        assert isinstance(alert.ask(sender), Duplicate)
    assert isinstance(alert.ask(3299), Duplicate), "nor the senders the newest duplicates"
    assert len(alert.send(4000).past) == 256 + 4


def test_of_many_windows_the_newest_senders_are_remembered() -> None:
    """Bounded too: 128 of them, and with them 256 duplicates."""
    alert = Alert()
    for number in range(0, 400, 2):
        past = alert.send(number).past
        assert isinstance(alert.ask(number + 1), Duplicate)
    senders = tuple(f"task-{number}" for number in range(0, 398, 2))
    duplicates = tuple(f"task-{number}" for number in range(1, 398, 2))
    assert past == (*duplicates, *senders[-128:])


def test_what_an_older_version_has_written_is_read() -> None:
    """It kept all in the order of their coming: nobody is lost by that."""
    entry = make_entry(owner="d", generation=3, past=("a", "b", "c", "x"), participants=("d", "y"))
    assert next_generation(entry).past == ("a", "b", "y", "c", "x", "d")
    assert next_generation(replace(entry, generation=9)).past == ("y", "a", "b", "c", "x", "d")
