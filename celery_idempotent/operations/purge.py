"""Purge finished entries, and compute how long the ledger has to remember them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.app import app_or_default

from ..conf import conf
from ..exceptions import InterventionRefused
from ..execution.call import LONGEST_WAIT
from ..ledger.addresses import mask_all, printable
from ..stores.database.own_connection import ledger_alias
from ..stores.database.store import DatabaseStore
from ..stores.factory import get_ledger
from ..tasks.registry import functions, tasks

logger = logging.getLogger("celery_idempotent")

BATCH = 1000
_ALL = 10**9
_VISIBILITY = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}
_CONSUMER_TIMEOUT = 1800
"""Seconds after which RabbitMQ takes a message back that is not acknowledged, unless it is told otherwise."""


def longest_redelivery(app: Celery | None = None) -> tuple[timedelta, str]:
    """Return how long a message may still come after its email was finished, and a text that lists the parts.

    An ``eta`` or ``countdown`` of a single call is in no configuration and not counted; those of beat's are.
    Nor are retries without an end; the text names their tasks.
    """
    app = app_or_default(app)
    parts = [
        ("the broker's visibility_timeout", _visibility(app)),
        ("waiting for another task", LONGEST_WAIT),
        max(_retries(app), key=lambda part: part[1], default=("", 0.0)),
        max(_countdowns(app), key=lambda part: part[1], default=("", 0.0)),
    ]
    text = ", ".join(f"{name} {timedelta(seconds=seconds)}" for name, seconds in parts if seconds)
    if endless := sorted(task.name for task in tasks(app) if _max_retries(task) is None):
        text += f"; without an end, and so not counted: retries of {', '.join(endless)}"
    return timedelta(seconds=sum(seconds for _, seconds in parts)), text


def _visibility(app: Celery) -> float:
    options = app.conf.broker_transport_options or {}
    if given := options.get("visibility_timeout"):
        return float(given)
    urls = app.conf.broker_read_url or ""
    several = urls if isinstance(urls, list | tuple) else str(urls).split(";")
    schemes = (str(url).partition("://")[0].split("+")[0].lower() for url in several)
    return float(max(_VISIBILITY.get(scheme, _CONSUMER_TIMEOUT) for scheme in schemes))


def _max_retries(task: Any) -> int | None:
    """Return how often ``task`` retries; None: for ever."""
    times: int | None = (getattr(task, "retry_kwargs", None) or {}).get("max_retries", task.max_retries)
    return times


def _retries(app: Celery) -> Iterator[tuple[str, float]]:
    """Yield how long the retries of each task take; those of a task that retries for ever have no end."""
    for task in tasks(app):
        keywords = getattr(task, "retry_kwargs", None) or {}
        if (times := _max_retries(task)) is None:
            continue
        if backoff := getattr(task, "retry_backoff", False):
            most = float(getattr(task, "retry_backoff_max", 600))
            growing = min(times, 32)
            seconds = sum(min(float(backoff) * 2**n, most) for n in range(growing)) + (times - growing) * most
        else:
            seconds = times * float(keywords.get("countdown", task.default_retry_delay) or 0)
        yield f"the retries of {task.name}", seconds


def _countdowns(app: Celery) -> Iterator[tuple[str, float]]:
    for name, entry in (app.conf.beat_schedule or {}).items():
        countdown = (entry.get("options") or {}).get("countdown")
        if isinstance(countdown, int | float):
            yield f"the countdown of {name}", float(countdown)


def shortest_age(app: Celery | None = None) -> tuple[timedelta, str]:
    """Return the age below which nothing may be removed, and why."""
    age, why = longest_redelivery(app)
    for task in (*tasks(app), *functions()):
        if isinstance(task.window, timedelta) and task.window > age:
            age, why = task.window, f"the window of {task.name}"
    return age, why


def purge(
    older_than: timedelta | None = None,
    dry_run: bool = False,
    batch: int = BATCH,
    app: Celery | None = None,
    force: str = "",
) -> int:
    """Remove what is finished and unchanged for ``older_than``, by default ``RETENTION``; return how many.

    In transactions of up to ``batch`` entries. In flight, released and in doubt stay. ``force`` is the reason
    for an age under ``RETENTION``. Raises `InterventionRefused` for such an age without a reason and, whatever
    the reason, for one at which duplicates may still come; `LedgerUnavailable`.
    """
    age = conf.retention if older_than is None else older_than
    _refuse_while_duplicates_come(age, app)
    if age < conf.retention:
        _refuse_without_reason(age, force)
        if not dry_run:
            logger.warning("purge under RETENTION, of what is %s old: %s", age, printable(mask_all(force)))
    ledger = get_ledger(app)
    if ledger.mirror is None:
        return _in_batches(ledger.store, age, dry_run, batch)
    # Redis removes one entry at a time and has to look at all of them, so once has to do.
    removed = ledger.store.purge(age.total_seconds(), limit=_ALL, dry_run=dry_run)
    return max(removed, _in_batches(DatabaseStore(ledger_alias), age, dry_run, batch))


def _refuse_while_duplicates_come(age: timedelta, app: Celery | None) -> None:
    """Raise `InterventionRefused` for an age under `shortest_age`, or where this process cannot know that."""
    if not (*tasks(app), *functions()):
        raise InterventionRefused(
            "this process knows no idempotent task, and so not how long their windows are. Import your Celery "
            "app in the project's __init__.py, and let it find your tasks"
        )
    least, why = shortest_age(app)
    if age < least:
        raise InterventionRefused(
            f"{age} is too short an age: for {least} a message may still ask for what was sent ({why}), and "
            "would be sent again"
        )


def _refuse_without_reason(age: timedelta, force: str) -> None:
    """Raise `InterventionRefused` for an age under ``RETENTION`` unless ``force`` says why."""
    if not force.strip():
        raise InterventionRefused(
            f"{age} is too short an age: messages in an outbox, and windows of tasks that this process does "
            f"not know, count on RETENTION ({conf.retention}), and what they ask for would be sent again. "
            "Purge with that age or a longer one, or shorten RETENTION; or, if nothing asks for these emails "
            "any more, say why with --force REASON"
        )


def _in_batches(store: Any, age: timedelta, dry_run: bool, batch: int) -> int:
    seconds = age.total_seconds()
    if dry_run:
        return int(store.purge(seconds, limit=_ALL, dry_run=True))
    total = 0
    while removed := store.purge(seconds, limit=batch):
        total += removed
    return total
