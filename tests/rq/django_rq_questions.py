"""Functions that the tests with django-rq have called in its project.

That project is imported where it is used: its decorator looks for a queue, which a test's own settings lack.
"""

from __future__ import annotations

import time
from typing import Any

import django_rq
from django.db import transaction

from tests.rq.app import outcome, status_of

ANN = "ann@example.com"


def function() -> Any:
    """Return the project's function."""
    from tests.rq.django_rq_app import order_confirmation

    return order_confirmation


def call_in_all_ways(order: int) -> list[Any]:
    """Return the outcomes of jobs that were enqueued in every way, and the entry's status."""
    jobs = [
        function().delay(order, ANN),
        function().delay(order_id=order, to=ANN),
        django_rq.get_queue().enqueue(function(), order, "ANN@example.com"),
    ]
    return [[outcome(job) for job in jobs], status_of(function(), order, ANN)]


def read_a_job(order: int, to: str) -> list[Any]:
    """Return a job's class, description and meta; its key; and what a call without an address raises."""
    job = function().delay(order, to)
    first = [type(job).__name__, job.description, job.meta]
    outcome(job)
    try:
        function().delay(order)
    except Exception as error:
        return [first, function().key_for(order, to), type(error).__name__]
    raise AssertionError("a call without its address was enqueued")


def run_and_look(order: int) -> list[Any]:
    """Return the outcome of a job, and the entry's status."""
    job = function().delay(order, ANN)
    return [outcome(job), status_of(function(), order, ANN)]


def roll_back_and_commit(rolled_back: int, committed: int) -> list[Any]:
    """Enqueue in two transactions; return what waited after the rollback, and that order's status."""
    try:
        with transaction.atomic():
            function().delay(rolled_back, ANN)
            raise ValueError("roll back")
    except ValueError:
        pass
    waiting = django_rq.get_queue().count
    with transaction.atomic():
        function().delay(committed, ANN)
    end = time.monotonic() + 40
    while status_of(function(), committed, ANN) != "sent":
        assert time.monotonic() < end
        time.sleep(0.05)
    return [waiting, status_of(function(), rolled_back, ANN)]
