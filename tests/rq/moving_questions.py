"""Functions that the tests of moving between the queues have called in the project of the how-to.

That project is imported where it is used: in a test's own process its shared task would be every app's.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.test import override_settings

from celery_idempotent.conf import conf
from celery_idempotent.ledger.addresses import recipient
from tests.acceptance.app import app as celery_app
from tests.rq.app import emails, outcome

ANN = "ann@example.com"


def project() -> Any:
    """Return the how-to's module, with Celery's app as the current one."""
    from tests.rq import moving

    celery_app.set_current()
    return moving


def find_keys(order: int) -> list[str]:
    """Return the key in either queue, the address spelt differently."""
    here = project()
    by_job = here.order_confirmation.key_for(order, "Ann@Example.com")
    return [by_job, here.order_confirmation_task.key_for(order_id=order, to=ANN)]


def find_key(order: int) -> str:
    """Return the key of a job."""
    return str(project().order_confirmation.key_for(order, ANN))


def call(order: int) -> None:
    """Call RQ's function directly."""
    project().order_confirmation(order, ANN)


def leave_in_rq(orders: list[int]) -> None:
    """Enqueue jobs with an id of the order's."""
    for order in orders:
        emails.enqueue(project().order_confirmation, order, ANN, job_id=f"old-{order}")


def leave_in_celery(orders: list[int]) -> None:
    """Publish tasks with an id of the order's."""
    for order in orders:
        project().order_confirmation_task.apply_async((order, ANN), task_id=f"old-{order}")


def run_in_rq(orders: list[int]) -> list[Any]:
    """Enqueue one job after the other, each when the one before is over; return their outcomes."""
    return [outcome(emails.enqueue(project().order_confirmation, order, ANN)) for order in orders]


def run_in_celery(orders: list[int]) -> list[Any]:
    """Publish one task after the other, each when the one before is over; return their outcomes."""
    return [_ended(project().order_confirmation_task.delay(order, ANN)) for order in orders]


def wait_for_rq(orders: list[int]) -> list[Any]:
    """Return the outcomes of the jobs that were left."""
    project()
    return [outcome(emails.fetch_job(f"old-{order}")) for order in orders]


def wait_for_celery(orders: list[int]) -> list[Any]:
    """Return the outcomes of the tasks that were left."""
    project()
    return [_ended(celery_app.AsyncResult(f"old-{order}")) for order in orders]


def find_error_in_celery(order: int) -> str:
    """Publish a task that has to fail, and return its error's name."""
    try:
        value = project().order_confirmation_task.delay(order, ANN).get(timeout=60)
    except Exception as error:
        return type(error).__name__
    raise AssertionError(f"returned {value!r}")


def is_known(order: int, setting: dict[str, str]) -> list[bool]:
    """Return whether Celery's task knows who has got the mail: as it is, and with another ``setting``."""
    task = project().order_confirmation_task

    def seen() -> bool:
        who = recipient(ANN, conf.recipient_salt, conf.recipients)
        entry = task.entry_for(order, ANN)
        return entry is not None and who.digest in [one.recipient.digest for one in entry.deliveries]

    with override_settings(CELERY_IDEMPOTENT={**settings.CELERY_IDEMPOTENT, **setting}):
        other = seen()
    return [seen(), other]


def _ended(result: Any) -> list[Any]:
    return ["finished", result.get(timeout=60)]
