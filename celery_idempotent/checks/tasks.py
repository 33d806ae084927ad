"""System checks of the options that tasks and functions declare."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning, register

from ..conf import conf
from ..email_types.email_type import email_type_of
from ..email_types.problems import misspelt, problems
from ..operations.purge import longest_redelivery
from ..tasks.registry import functions, import_tasks, tasks
from . import mail as mail_checks  # noqa: F401
from .prerequisites import knowing_tasks, usable


@register("celery_idempotent")
@knowing_tasks
def check_tasks(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """E010 unusable task option, W012 a misspelt option, W015 tasks that cannot be imported."""
    from ..tasks.idempotent import IdempotentTask

    found: list[CheckMessage] = []
    if (error := import_tasks()) is not None:
        found.append(
            Warning(
                "the tasks cannot be imported, so their options were not checked: "
                f"{type(error).__name__}: {error}",
                hint="A worker would not start with that, either.",
                id="celery_idempotent.W015",
            )
        )
    for task in tasks():
        found += [
            Warning(
                f"task {task.name}: there is no option {name!r}, so it has no effect",
                hint=f"Did you mean {meant!r}?",
                obj=task.name,
                id="celery_idempotent.W012",
            )
            for name, meant in misspelt(task, IdempotentTask)
        ]
        found += [
            Error(f"task {task.name}: {option} {text}", obj=task.name, id="celery_idempotent.E010")
            for option, text in problems(email_type_of(task))
        ]
    return found


@register("celery_idempotent")
@knowing_tasks
def check_windows(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """W011 a window longer than the retention, of a task or a function."""
    if not usable("retention"):
        return []
    return [
        Warning(
            f"{task.name}: its window ({task.window}) is longer than the ledger remembers",
            hint=f"CELERY_IDEMPOTENT['RETENTION'] is {conf.retention}.",
            obj=task.name,
            id="celery_idempotent.W011",
        )
        for task in (*tasks(), *functions())
        if isinstance(task.window, timedelta) and task.window > conf.retention
    ]


@register("celery_idempotent")
@knowing_tasks
def check_retention(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """W014 a retention shorter than a message may still come, or than the relay takes to publish it again."""
    if not usable("retention", "redeliver_after") or not (*tasks(), *functions()):
        return []
    found: list[CheckMessage] = []
    longest, why = longest_redelivery()
    if conf.retention < longest:
        found.append(
            Warning(
                f"CELERY_IDEMPOTENT['RETENTION'] is {conf.retention}, and a message may still come for "
                f"{longest}: {why}. What has been forgotten by then is sent again",
                hint="Lengthen RETENTION.",
                id="celery_idempotent.W014",
            )
        )
    if conf.redeliver_after >= conf.retention.total_seconds():
        found.append(
            Warning(
                f"CELERY_IDEMPOTENT['REDELIVER_AFTER'] is {conf.redeliver_after:.0f} s, and RETENTION is "
                f"{conf.retention}: a lost message is too old by then to be published again, and stays unsent",
                hint="Shorten REDELIVER_AFTER (900 by default), or lengthen RETENTION.",
                id="celery_idempotent.W014",
            )
        )
    return found
