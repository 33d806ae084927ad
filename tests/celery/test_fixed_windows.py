"""Fixed windows: where their buckets begin, and what is a time."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import IdempotentTask, KeyFieldError, PayloadMismatch

app = Celery("fixed", broker="memory://", backend="cache+memory://", set_as_current=False)
FIXED = {"base": IdempotentTask, "key_fields": ("user",), "window_mode": "fixed", "event_time_field": "at"}


@app.task(name="fixed-week", window=timedelta(weeks=1), **FIXED)
def weekly(user: int, at: Any) -> None: ...


@app.task(name="fixed-day", window=timedelta(days=1), **FIXED)
def daily(user: int, at: Any) -> None: ...


def begins(task: Any, moment: str) -> bool:
    """Tell whether a bucket begins at ``moment``, and not a second later."""
    at = datetime.fromisoformat(moment)
    before, then, after = (task.key_for(1, at + timedelta(seconds=n)) for n in (-1, 0, 1))
    return before != then == after


def test_buckets_are_counted_from_the_epoch() -> None:
    """As the documentation says: a day is one of UTC, whatever the zone, and a week begins on a Thursday."""
    assert begins(daily, "2026-03-29T00:00:00+00:00")
    assert begins(daily, "2026-03-29T02:00:00+02:00")
    assert not begins(daily, "2026-03-29T00:00:00+01:00"), "midnight in Berlin"
    thursday = datetime(2026, 4, 2, tzinfo=timezone.utc)
    week = [thursday + timedelta(days=n) for n in range(7)]
    assert [begins(weekly, day.isoformat()) for day in week] == [True] + [False] * 6
    assert thursday.isoweekday() == 4


def test_a_time_as_other_programs_write_it() -> None:
    """With a Z, and whichever zone it is in: it is the moment that counts."""
    moment = datetime(2026, 3, 29, 1, 30, tzinfo=timezone.utc)
    same = ("2026-03-29T01:30:00Z", "2026-03-29T03:30:00+02:00", moment)
    assert len({daily.key_for(1, at) for at in same}) == 1


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (datetime(2026, 1, 1), "fixed-day: event_time_field 'at' is a naive"),
        ("2026-01-01T00:00:00", "fixed-day: event_time_field 'at' is a naive"),
        ("2026-01-01", "fixed-day: event_time_field 'at' is a naive"),
        ("soon", "fixed-day: event_time_field 'at' has to be an aware datetime, or one as ISO 8601 text"),
        (date(2026, 1, 1), "fixed-day: event_time_field 'at' has to be an aware datetime"),
        (1_767_225_600, "fixed-day: event_time_field 'at' has to be an aware datetime"),
        ("2026-02-30T00:00:00Z", "fixed-day: event_time_field 'at' has to be an aware datetime"),
    ],
)
def test_what_names_no_moment_is_refused_by_the_name_of_its_field(at: Any, told: str) -> None:
    """Nobody has to guess which of the arguments is meant."""
    with pytest.raises(KeyFieldError, match=told):
        daily.enqueue(1, at)


@app.task(name="fixed-replayed", window=timedelta(days=1), **FIXED)
def replayed(user: int, at: Any, text: str = "") -> Any:
    return at


@app.task(name="fixed-nested", window=timedelta(days=1), **{**FIXED, "event_time_field": "order.placed.at"})
def nested(user: int, order: Any) -> Any:
    return order["placed"]["at"]


MORNING, LATER = "2026-03-29T08:00:00Z", "2026-03-29T09:00:00Z"


@pytest.mark.parametrize("how", ["warn", "raise"])
def test_two_moments_of_one_bucket_are_the_same_email(
    memory_ledger: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where in the bucket makes no difference, so the second is a plain duplicate. Other content is not."""
    monkeypatch.setattr(type(app.tasks["fixed-replayed"]), "on_mismatch", how)
    for at in (MORNING, LATER):
        assert replayed.apply((1, at)).get() == MORNING
    assert "other content" not in caplog.text
    other = replayed.apply((1, LATER, "other"))
    assert isinstance(other.result, PayloadMismatch) if how == "raise" else "other content" in caplog.text


@pytest.mark.parametrize("how", ["warn", "raise"])
def test_a_moment_inside_an_argument_alone_is_no_content(
    memory_ledger: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """All else that is in there counts, and the argument itself stays whole."""
    monkeypatch.setattr(type(app.tasks["fixed-nested"]), "on_mismatch", how)
    for at in (MORNING, LATER):
        assert nested.apply((1, {"placed": {"at": at, "by": "ann"}, "sum": 5})).get() == MORNING
    assert "other content" not in caplog.text
    for order in ({"placed": {"at": LATER, "by": "eve"}, "sum": 5}, {"placed": {"at": LATER, "by": "ann"}}):
        caplog.clear()
        other = nested.apply((1, order))
        assert isinstance(other.result, PayloadMismatch) if how == "raise" else "other content" in caplog.text


def test_a_moment_that_is_named_as_content_is_content(memory_ledger: Any) -> None:
    """Whoever lists it means it; and without a fixed window it is an argument like any other."""
    strict = {**FIXED, "on_mismatch": "raise", "window": timedelta(days=1)}
    listed, sliding = {**strict, "fingerprint_fields": ("at",)}, {**strict, "window_mode": "sliding"}
    for name, options in (("listed", listed), ("sliding", sliding)):

        @app.task(name=f"fixed-{name}", **options)
        def task(user: int, at: Any) -> Any: ...

        task.apply((1, MORNING)).get()
        assert isinstance(task.apply((1, LATER)).result, PayloadMismatch)
