"""Windows, for any schedule: the number of sends is what the rule says, whatever workers and brokers do.

Time is simulated: the store's clock jumps from one step of the schedule to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_idempotent import IdempotentTask
from celery_idempotent.ledger.generations import next_generation
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Acquired, Duplicate
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.stores import memory
from celery_idempotent.stores.memory import MemoryStore
from celery_idempotent.testing import hold, make_entry
from tests.ledger.sending_rule import Rule
from tests.ledger.world import FATES, HOST, NEVER, START, UNANSWERED, Delivery, World
from tests.support.hostclock import host_clock


@pytest.fixture(scope="module", autouse=True)
def _workers_clocks() -> Iterator[None]:
    """What of the package reads the host's clock, reads that of the world's worker."""
    with host_clock(HOST):
        yield


pytestmark = pytest.mark.timeout(900)
"""Seconds: in the tier `all` each of these schedules is tried five thousand times."""

hours = st.sampled_from([0.0, 2.0, -2.0, 26.0, -26.0])
skews = hours.map(lambda value: value * 3600)
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
        taken=st.booleans(),
        skew=skews,
    ),
    min_size=1,
    max_size=16,
)
decisions = st.sampled_from([0.0, 45.0, 500.0, 5000.0])
windows = st.sampled_from([1.0, 30.0, 100.0, 500.0, 86_400.0])


@given(deliveries, windows, decisions)
def test_a_sliding_window_counts_from_the_last_acceptance(
    schedule: list[Delivery], window: float, decides: float
) -> None:
    """Any schedule of events, redeliveries, retries, kills and slow bodies: no send too early, none too few.

    Two acceptances are at least a window apart. A task that did not send was answered by an acceptance less
    than a window old, counted from when the ledger learned of it. No task id sends twice.
    """
    world = World(window, "hold", decides)
    world.run(schedule)
    times = [when for when, _ in world.accepted]
    assert all(later - earlier >= window - 1e-5 for earlier, later in pairwise(times)), world.accepted
    senders = Counter(task for _, task in world.accepted)
    assert set(senders.values()) <= {1}, "a task id that took part sends once, whatever the window"
    tasks = {delivery.task for delivery in schedule}
    assert set(world.ended) == tasks, "everybody gets an answer"
    for task in tasks - set(senders):
        begun, ended = world.first_seen[task], world.ended[task]
        answered = [when for when in world.recorded if begun - window - 1e-5 < when <= ended]
        assert answered, f"task {task} asked at {begun} and nobody has sent for it: {world.accepted}"


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


hand_overs = st.lists(
    st.builds(
        Delivery,
        task=st.integers(0, 6),
        at=seconds,
        fate=st.sampled_from(["ok", *UNANSWERED]),
        again=st.sampled_from([0.0, 1.0, 100.0, 700.0]),
        taken=st.booleans(),
        skew=skews,
    ),
    min_size=1,
    max_size=20,
)


@given(hand_overs, windows, st.sampled_from(["hold", "resend", "verifier"]), decisions | st.just(NEVER))
def test_the_number_of_sends_is_the_rules_whatever_is_in_doubt(
    schedule: list[Delivery], window: float, in_doubt: str, decides: float | None
) -> None:
    """Workers killed in hand-overs and replies lost, with an operator, with none, resent, or verified.

    Each mail that the server takes is one that the rule says, to the millisecond: a held doubt adds none, a
    resend one for each doubt about what had been taken.
    """
    world = World(window, in_doubt, decides)
    world.longest_dither = 1.0
    world.run(schedule)
    taken = [(round(when * 1000), task) for when, task in world.accepted]
    assert taken == Rule(window, in_doubt, decides).run(schedule)
    assert set(world.ended) == {delivery.task for delivery in schedule}, "everybody gets an answer"


@given(deliveries, windows, decisions)
def test_the_clocks_of_workers_change_nothing(schedule: list[Delivery], window: float, decides: float) -> None:
    """Hours ahead or behind, each another: the same is sent, and everybody is answered, at the same moments."""
    world, right = World(window, "hold", decides), World(window, "hold", decides)
    world.run(schedule)
    right.run([replace(delivery, skew=0.0) for delivery in schedule])
    assert (world.accepted, world.recorded, world.ended) == (right.accepted, right.recorded, right.ended)


def test_a_ledger_that_went_by_its_workers_clocks_would_be_noticed() -> None:
    """The clocks of the tests above are wrong where the package would look."""
    world = World(86_400.0)
    world.ledger = Ledger(MemoryStore(memory._utc_now))
    world.run([Delivery(1, 0), Delivery(2, 10, skew=93_600.0)])
    assert world.accepted == [(0.0, 1), (10.0, 2)]


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


class Alert:
    """An email that goes out once a minute, by other means than mail."""

    def __init__(self) -> None:
        self.now = START
        self.ledger = Ledger(MemoryStore(lambda: self.now))
        self.rules = Policy(window=60.0, opaque=True)

    def ask(self, number: int) -> Any:
        return self.ledger.claim(Claimant("k", "reminder", f"task-{number}"), self.rules)

    def send(self, number: int) -> Any:
        """Let the window pass, and have the task of this number send."""
        self.now += timedelta(minutes=2)
        outcome = self.ask(number)
        assert isinstance(outcome, Acquired)
        return hold(self.ledger, outcome.entry).complete(None)


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
