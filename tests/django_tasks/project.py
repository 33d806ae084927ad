"""The tasks that real workers run: db_worker, rqworker, and Celery's beside them."""

from __future__ import annotations

import os
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django_tasks.settings")
django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from celery import Celery  # noqa: E402
from django.core.mail import EmailMessage  # noqa: E402
from django.db import close_old_connections, transaction  # noqa: E402
from rq.exceptions import NoSuchJobError  # noqa: E402

from celery_idempotent import IdempotentEmailTask  # noqa: E402
from celery_idempotent.contrib.django_tasks import idempotent, idempotent_email  # noqa: E402
from tests.acceptance import crash  # noqa: E402
from tests.acceptance.crash import DIRECTORY  # noqa: E402
from tests.support.seeded_entries import Seed  # noqa: E402

task: Any = import_module("django.tasks" if find_spec("django.tasks") else "django_tasks").task
app = Celery("both", broker=os.environ.get("TEST_BROKER", "memory://"))
app.conf.update(result_backend=os.environ.get("TEST_BROKER"), worker_enable_remote_control=False)
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
SEND_TIMEOUT = float(os.environ.get("TEST_SEND_TIMEOUT", "2"))
COMMON: dict[str, Any] = {"key_fields": ("order",), "lease": 2, "send_timeout": SEND_TIMEOUT}


def note(line: str) -> None:
    """Append ``line`` to what the bodies did."""
    with open(f"{DIRECTORY}/bodies", "a", encoding="utf-8") as stream:
        stream.write(f"{line} {os.getpid()}\n")


def send(order: Any) -> None:
    """Hand one mail over."""
    EmailMessage("Your order", f"Order {order}", to=["ann@example.com"]).send()


@task
@idempotent_email(**COMMON, email_type="confirmation")
def confirm(order: Any, to: str = "ann@example.com") -> dict[str, Any]:
    """The plain case."""
    note(f"confirm {order}")
    EmailMessage("Your order", f"Order {order}", to=[to]).send()
    crash.at("after-send")
    return {"order": order, "by": os.getpid()}


@app.task(base=IdempotentEmailTask, **COMMON, email_type="confirmation")
def celery_confirm(order: Any, to: str = "ann@example.com") -> dict[str, Any]:
    """The same email, sent from Celery."""
    note(f"celery {order}")
    EmailMessage("Your order", f"Order {order}", to=[to]).send()
    return {"order": order, "by": os.getpid()}


@task(takes_context=True)
@idempotent_email(**COMMON, on_mismatch="raise")
def with_context(context: Any, order: Any) -> str:
    """Takes Django's context."""
    send(order)
    return str(context.task_result.id)


@task
@idempotent_email(**COMMON)
async def later(order: Any) -> str:
    """A coroutine function."""
    await sync_to_async(send)(order)
    return f"awaited {order}"


@task
@idempotent_email(**COMMON)
def failing(order: Any, fail: bool = True) -> str:
    """Sends, and then fails."""
    send(order)
    if fail:
        raise ValueError("after the send")
    return "sent"


@task
@idempotent_email(**COMMON)
def in_transaction(order: Any, fail: bool = True) -> str:
    """Sends inside `atomic`, and rolls back."""
    with transaction.atomic():
        send(order)
        if fail:
            raise ValueError("roll back")
    return "committed"


@task
@transaction.atomic
@idempotent_email(**COMMON)
def all_in_one(order: Any) -> str:
    """Claims and waits inside a transaction of its own."""
    send(order)
    return "sent"


@task
@idempotent(**COMMON)
def opaque(order: Any) -> str:
    """A body that the ledger cannot see into."""
    crash.at("opaque-body")
    return f"done {order}"


# -- what tests ask ----------------------------------------------------------------------------------------


def outcome(result: Any, patience: float = 60) -> list[Any]:
    """Return a task's status and what it returned, or the name and text of its error."""
    finished(result, patience)
    if result.status == "SUCCESSFUL":
        return [result.status, result.return_value]
    result.refresh()  # on RQ, what was read of a job that ended meanwhile may lack its error's class
    error = result.errors[-1]
    return [result.status, error.exception_class_path.rpartition(".")[2], error.traceback.strip()]


def finished(result: Any, patience: float = 60) -> None:
    """Wait until a task has come to its end."""
    end = time.monotonic() + patience
    while not result.is_finished:
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience} s: {result}")
        time.sleep(0.05)
        close_old_connections()
        try:
            result.refresh()
        except NoSuchJobError:
            continue  # django-tasks-rq looks for a scheduled job's time, and RQ has just begun it


def last(result: Any) -> list[Any]:
    """Return the id and the outcome of the task that ``result`` came to in the end, one that went on for it."""
    told = outcome(result)
    while told[1] == "InProgress" and "; this goes on as task " in told[2]:
        result = result.task.get_result(told[2].rpartition("; this goes on as task ")[2])
        told = outcome(result)
    return [result.id, *told]


def entry(of: Any, order: Any) -> Any:
    """Return what the ledger knows."""
    return of.func.entry_for(order)


def owner(of: Any, order: Any) -> Any:
    """Return the id of the task that the entry belongs to; RQ's carry the time of their creation besides."""
    found = entry(of, order)
    return found and found.owner.partition("@")[0]


def seed(of: Any, order: Any, **policy: Any) -> Seed:
    """Return somebody else's run of the same email."""
    declared = of.func.declared
    carrier = type("Carrier", (), {"name": declared.name, "email_type": declared.email_type})
    carrier._identify = lambda self, args, kwargs: declared.identify(args, kwargs)
    return Seed(carrier(), order, by="somebody-else", **policy)


crash.install()
