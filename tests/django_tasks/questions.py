"""Functions that tests of Django tasks have called in the project; a task goes by its name in `project`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

from django.core import serializers
from django.db import transaction
from django.utils import timezone

from celery_idempotent import KeyFieldError
from celery_idempotent.contrib import django_tasks
from celery_idempotent.models import Delivery, LogicalEmail, SendAttempt
from celery_idempotent.testing import hold
from tests.django_tasks import project
from tests.django_tasks.project import (
    celery_confirm,
    confirm,
    entry,
    failing,
    finished,
    in_transaction,
    later,
    outcome,
    owner,
    seed,
    with_context,
)

kept: dict[str, Any] = {}
"""Results, and somebody else's runs and claims, that a test comes back to, by the name that it gave them."""


def task_of(name: str) -> Any:
    """Return the task of this name."""
    return getattr(project, name)


def find_status(task: str, order: Any) -> str | None:
    """Return the status of the entry, or None."""
    found = entry(task_of(task), order)
    return found and found.status.value


def find_owner(order: Any) -> str | None:
    """Return the id of the task to which the entry belongs."""
    return owner(confirm, order)


def run_and_look(task: str, order: Any) -> list[Any]:
    """Run a task on the default backend; return its status, and its entry's."""
    return [outcome(task_of(task).enqueue(order))[0], find_status(task, order)]


# -- tasks that a test comes back to ---------------------------------------------------------------------------


def keep(name: str, alias: str, task: str, order: Any) -> str:
    """Enqueue a task, keep its result under ``name``, and return its id."""
    kept[name] = task_of(task).using(backend=alias).enqueue(order)
    return str(kept[name].id)


def keep_other(name: str, task_id: str) -> None:
    """Keep the result of the task with this id under ``name``."""
    kept[name] = confirm.get_result(task_id)


def wait_for(name: str) -> list[Any]:
    """Return the outcome of the task kept as ``name``."""
    return outcome(kept[name])


def wait_for_last(name: str) -> list[Any]:
    """Return the id and the outcome of the task to which the one kept as ``name`` came in the end."""
    return project.last(kept[name])


def run_after(name: str, alias: str, task: str, order: Any) -> list[Any]:
    """Run the task again after the one kept as ``name`` was killed.

    Return its outcome, the status of the killed one, and the entry's.
    """
    value = outcome(task_of(task).using(backend=alias).enqueue(order))
    if alias == "rq":
        finished(kept[name])  # by RQ's worker, as soon as that notices
    kept[name].refresh()
    return [value, kept[name].status, find_status(task, order)]


# -- somebody else's claim -------------------------------------------------------------------------------------


def keep_behind_a_claim(name: str, alias: str, task: str, order: Any, lease: float) -> str:
    """Let somebody else hold the claim, and `keep` a task that has to wait for it."""
    kept["held"] = seed(task_of(task), order, lease=lease)
    kept["claimed"] = kept["held"].claimed()
    return keep(name, alias, task, order)


def complete_the_claim(result: Any) -> None:
    """Have the other one come to its end."""
    hold(kept["held"].ledger, kept["claimed"]).complete(result)


def fail_the_claim(reason: str) -> None:
    """Have the other one give up."""
    hold(kept["held"].ledger, kept["claimed"]).fail(reason)


# -- calls of every kind ---------------------------------------------------------------------------------------


def call_in_all_ways(alias: str, order: int) -> list[Any]:
    """Return the outcomes of one order's tasks, enqueued in every way there is."""
    on = confirm.using(backend=alias)
    mails = on.using(queue_name="mails")
    priority = mails if alias == "rq" else mails.using(priority=50)
    soon = on.using(run_after=timezone.now() + timedelta(seconds=1))
    results = [
        on.enqueue(order),
        on.enqueue(order=order),
        on.enqueue(order, to="ann@example.com"),
        priority.enqueue(order),
        soon.enqueue(order),
    ]
    return [outcome(result) for result in results]


def run_context_and_coroutines(alias: str, order: int) -> list[Any]:
    """Return the outcomes of both kinds, twice each, and whether key and owner are as they should be."""
    contexts = [with_context.using(backend=alias).enqueue(order) for _ in range(2)]
    awaited = [later.using(backend=alias).enqueue(order) for _ in range(2)]
    return [
        [outcome(result) for result in contexts],
        [outcome(result) for result in awaited],
        [
            with_context.func.key_for(order) == entry(with_context, order).key,
            owner(with_context, order) in [result.id for result in contexts],
        ],
    ]


def fail_and_go_on(alias: str, order: int) -> list[Any]:
    """Return the outcome of a task that fails, the entry's status then, and the outcome of the next one."""
    first = outcome(failing.using(backend=alias).enqueue(order))
    status = entry(failing, order).status
    return [first, status, outcome(failing.using(backend=alias).enqueue(order, fail=False))]


def roll_back_the_body(alias: str, order: int) -> list[Any]:
    """Return the outcome of a body that rolls back, that of the next one, and how often it was attempted."""
    first = outcome(in_transaction.using(backend=alias).enqueue(order))
    second = outcome(in_transaction.using(backend=alias).enqueue(order, fail=False))
    return [first, second, entry(in_transaction, order).attempts]


def run_twice_and_look(alias: str, order: int) -> list[Any]:
    """Return the outcomes of two tasks, one after the other, and the entry's status."""
    results = [outcome(confirm.using(backend=alias).enqueue(order)) for _ in range(2)]
    return [*results, entry(confirm, order).status]


def call_without_key(alias: str) -> list[Any]:
    """Enqueue a task without its key; return what that raises, and the outcome of the task."""
    enqueued: list[Any] = []
    identify = django_tasks._declared

    def declared(result: Any) -> Any:
        enqueued.append(result)
        return identify(result)

    with mock.patch.object(django_tasks, "_declared", declared):
        try:
            confirm.using(backend=alias).enqueue(None)
        except KeyFieldError as error:
            return [str(error), outcome(enqueued[0])]
    raise AssertionError("a call without its key was enqueued")


# -- transactions ----------------------------------------------------------------------------------------------


def roll_back_the_callers(alias: str, order: int) -> list[Any]:
    """Enqueue in transactions that roll back, now and on commit; return what ran, and the next one's status."""
    on = confirm.using(backend=alias)
    result: Any = None
    try:
        with transaction.atomic():
            result = on.enqueue(order)
            raise ValueError
    except ValueError:
        pass
    try:
        with transaction.atomic():
            transaction.on_commit(lambda: on.enqueue(-order))
            raise ValueError
    except ValueError:
        pass
    after = outcome(on.enqueue(1000 + order))
    ran = outcome(result)[0] if alias == "rq" else owner(confirm, order)
    return [ran, owner(confirm, -order), after[0]]


def roll_back_the_immediate_one(order: int) -> list[Any]:
    """Return the outcomes of a task at once in a transaction that rolls back, and of the next one."""
    on = confirm.using(backend="immediate")
    results: list[Any] = []
    try:
        with transaction.atomic():
            results.append(on.enqueue(order))
            raise ValueError
    except ValueError:
        results.append(on.enqueue(order))
    return [outcome(result) for result in results]


# -- what is stored, and many at a time ------------------------------------------------------------------------


def read_what_is_stored(alias: str, order: int, to: str) -> list[str]:
    """Send to this address, and return all rows of the ledger."""
    outcome(confirm.using(backend=alias).enqueue(order, to=to))
    return [
        serializers.serialize("json", model.objects.all()) for model in (LogicalEmail, Delivery, SendAttempt)
    ]


def run_many(orders: int, times: int) -> list[Any]:
    """Return the outcomes of so many orders, asked for so many times, and of a send inside a transaction."""
    results = [confirm.enqueue(order) for _ in range(times) for order in range(orders)]
    return [[outcome(result) for result in results], outcome(in_transaction.enqueue(1, fail=False))]


def run_at_once() -> list[Any]:
    """Return the outcomes of two tasks on RQ's synchronous queue, and of one behind somebody else's claim."""
    on = confirm.using(backend="rq", queue_name="at-once")
    results = [outcome(on.enqueue("at-once")) for _ in range(2)]
    seed(confirm, "held").claimed()
    return [*results, outcome(on.enqueue("held"))]


def run_beside_celery(first: int, last: int) -> list[Any]:
    """Return, order by order, the result of Celery's task, and the outcome of Django's."""
    both = [(celery_confirm.delay(order), confirm.enqueue(order)) for order in range(first, last + 1)]
    return [[celery.get(timeout=100), *outcome(django, 100)] for celery, django in both]
