"""Functions that the scenarios of the matrix have called in the project."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import chain, chord, group
from django.apps import apps
from django.core.management.color import no_style
from django.db import connection, transaction

from tests.acceptance.app import app, collect, confirm, noted, replacing
from tests.acceptance.questions import publish
from tests.support.seeded_entries import Seed


def empty_ledger() -> None:
    """Remove every row of the ledger."""
    models = apps.get_app_config("celery_idempotent").get_models()
    tables = [model._meta.db_table for model in models]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, allow_cascade=True))


# -- the console itself ----------------------------------------------------------------------------------------


def die() -> None:
    """End this process at once."""
    os._exit(1)


def divide(number: int, by: int) -> float:
    """Return the quotient."""
    return number / by


def sleep(seconds: float) -> None:
    """Answer late."""
    time.sleep(seconds)


def print_and_answer(value: Any) -> Any:
    """Print something, and return ``value``."""
    print("not an answer")
    return value


def read_configuration() -> list[Any]:
    """Return the visibility timeout and the tasks' time limit."""
    return [app.conf.broker_transport_options["visibility_timeout"], app.conf.task_time_limit]


# -- publishers ------------------------------------------------------------------------------------------------


def die_before_the_commit(order: int, how: str) -> None:
    """Publish ``how``, a method of the task, inside a transaction, and end this process in it."""
    with transaction.atomic():
        getattr(confirm, how)(order)
        os._exit(1)


def publish_failing(order: int, task_id: str) -> None:
    """Publish a task that fails after its send, with an errback."""
    publish("failing", order, task_id=task_id, link_error=noted.si())


def hang_on_duplicates(first: int, second: int, third: int) -> list[Any]:
    """Return the results of a chain, a group and a chord with duplicates, and of a task that is replaced."""
    confirm.delay(first).get(timeout=60)
    results = [
        chain(confirm.si(first), collect.s()).delay(),
        group(confirm.si(first), confirm.si(second), confirm.si(second)).delay(),
        chord([confirm.si(second), confirm.si(first)], collect.s()).delay(),
        replacing.delay(third),
    ]
    confirm.apply_async((first,), link=noted.si())
    return [result.get(timeout=60) for result in results]


# -- races -----------------------------------------------------------------------------------------------------


def run_twice_under_one_id(orders: list[int]) -> list[Any]:
    """Publish each order's task twice under the same id; return the results."""
    for order in orders:
        for _ in range(2):
            confirm.apply_async((order,), task_id=f"twice-{order}")
    return [app.AsyncResult(f"twice-{order}").get(timeout=60) for order in orders]


def run_pairs(orders: list[int]) -> list[list[Any]]:
    """Publish two tasks for each order; return the results of both."""
    pairs = [[confirm.apply_async((order,), task_id=f"{side}-{order}") for side in "ab"] for order in orders]
    return [[one.get(timeout=100), other.get(timeout=100)] for one, other in pairs]


def publish_behind_a_claim(order: int, lease: float, task_ids: list[str]) -> None:
    """Let another run hold the claim, and publish duplicates that have to wait for it."""
    Seed(confirm, order, lease=lease).claimed()
    for task_id in task_ids:
        confirm.apply_async((order,), task_id=task_id)


# -- revoking --------------------------------------------------------------------------------------------------


def terminate(task_id: str) -> None:
    """Revoke a task that runs."""
    app.control.revoke(task_id, terminate=True, signal="SIGKILL")


def publish_revoked(order: int, task_id: str) -> int:
    """Revoke a task before it is published; return how many workers have heard of that."""
    told = app.control.revoke(task_id, reply=True, timeout=20, limit=2)
    confirm.apply_async((order,), task_id=task_id)
    return len(told)
