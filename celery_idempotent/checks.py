"""System checks: mistakes that can be known before the first mail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial, wraps
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from .conf import DEFAULTS, conf
from .core.errors import LedgerUnavailable
from .mail import checks as mail_checks  # noqa: F401
from .mailers import SMTP, Mailer, examine, usable_mailers
from .options import misspelt, problems
from .registry import functions, import_tasks, tasks
from .retention import longest_redelivery
from .sealing import check_keys
from .wiring import get_ledger

Check = Callable[..., list[CheckMessage]]


def _knowing_tasks(check: Check) -> Check:
    """Import the tasks before ``check``: what a Celery app discovers, it imports in workers alone."""

    @wraps(check)
    def knowing(app_configs: Sequence[AppConfig] | None, **options: Any) -> list[CheckMessage]:
        import_tasks()
        return check(app_configs, **options)

    return knowing


@register("celery_idempotent")
def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """E001 unknown setting, E002 unusable value, E003 unknown database."""
    given = getattr(settings, "CELERY_IDEMPOTENT", {})
    if not isinstance(given, dict):
        return [Error("CELERY_IDEMPOTENT has to be a dict", id="celery_idempotent.E002")]
    found: list[CheckMessage] = [
        Error(
            f"CELERY_IDEMPOTENT has no setting {name!r}",
            hint=f"It knows {', '.join(DEFAULTS)}.",
            id="celery_idempotent.E001",
        )
        for name in given
        if name not in DEFAULTS
    ]
    found += _unusable()
    named = [("DATABASE", conf.database)]
    if not any(message.id == "celery_idempotent.E002" for message in found):
        named += [("OUTBOX_DATABASES", alias) for alias in conf.outbox_databases]
    return found + [
        Error(
            f"CELERY_IDEMPOTENT[{name!r}] names {alias!r}, which DATABASES does not have",
            id="celery_idempotent.E003",
        )
        for name, alias in named
        if alias not in connections.settings
    ]


def _unusable() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    names = (
        "retention",
        "recipients",
        "redis_wait",
        "classify_reply",
        "connection_idle",
        "outbox_databases",
        "redeliver_after",
    )
    reads: list[Callable[[], object]] = [partial(getattr, conf, name) for name in names]
    for read in (*reads, check_keys, examine, _store):
        try:
            read()
        except ImproperlyConfigured as error:
            found.append(Error(str(error), id="celery_idempotent.E002"))
    return found


def _store() -> None:
    """Make the store, and its client where it has one, without asking a server."""
    try:
        getattr(get_ledger().store, "client", None)
    except ImproperlyConfigured:
        raise
    except Exception:
        return  # a cluster's client does ask a server; whether that answers is W031's question


@register("celery_idempotent")
@_knowing_tasks
def check_tasks(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """E010 unusable task option, W012 a misspelt option, W015 tasks that cannot be imported."""
    from .tasks import IdempotentTask

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
            for option, text in problems(task)
        ]
    return found


@register("celery_idempotent")
@_knowing_tasks
def check_windows(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """W011 a window longer than the retention, of a task or a function."""
    if not _usable("retention"):
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
@_knowing_tasks
def check_retention(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """W014 a retention shorter than a message may still come, or than the relay takes to publish it again."""
    if not _usable("retention", "redeliver_after") or not (*tasks(), *functions()):
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


@register("celery_idempotent")
@_knowing_tasks
def check_queues(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """W013 a ledger that not every queue's workers will find."""
    names = [declared.name for declared in functions()]
    if not names or not _usable("ledger") or conf.ledger != "auto":
        return []
    return [
        Warning(
            f"{', '.join(names)} run in workers that may not know Celery's result backend, which "
            "CELERY_IDEMPOTENT['LEDGER'] = 'auto' follows: they would look in another ledger",
            hint="Name the ledger: 'database', or a redis:// URL.",
            id="celery_idempotent.W013",
        )
    ]


def _usable(*names: str) -> bool:
    """Tell whether these settings can be used. Where they cannot, E002 says so."""
    try:
        return all(getattr(conf, name) is not None for name in names)
    except ImproperlyConfigured:
        return False


@register("celery_idempotent")
@_knowing_tasks
def check_mail(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """W020, W023 mail that goes around the ledger, W021 no timeout, E022 a backend that wraps itself."""
    from .tasks import IdempotentEmailTask

    names = [task.name for task in tasks() if isinstance(task, IdempotentEmailTask)]
    names += [declared.name for declared in functions() if declared.sends_mail]
    found: list[CheckMessage] = []
    for mailer in usable_mailers():
        if mailer.wrapped is None:
            found += _around_the_ledger(mailer, names)
        elif mailer.wrapped.startswith("celery_idempotent."):
            found.append(
                Error(
                    "CELERY_IDEMPOTENT['EMAIL_BACKEND'] names the backend that wraps; name the one that sends",
                    id="celery_idempotent.E022",
                )
            )
        elif mailer.wrapped == SMTP and mailer.timeout is None:
            found.append(
                Warning(
                    f"mailer {mailer.alias!r} has no timeout: a mail server that stalls holds a worker "
                    "for all of send_timeout, before the payload and again after it",
                    hint="Set EMAIL_TIMEOUT (or the option 'timeout' in MAILERS) to some seconds, such as 30.",
                    id="celery_idempotent.W021",
                )
            )
    return found


def _around_the_ledger(mailer: Mailer, names: Sequence[str]) -> list[CheckMessage]:
    if not names:
        return []
    if mailer.alias != "default":
        return [
            Warning(
                f"what an idempotent task sends with using={mailer.alias!r} goes around the ledger",
                hint="Give that mailer BACKEND 'celery_idempotent.mail.EmailBackend', the one that sends as "
                "its option 'backend'; or silence this check if no idempotent task uses it.",
                id="celery_idempotent.W023",
            )
        ]
    return [
        Warning(
            f"the bodies of {', '.join(names)} are opaque to the ledger: mail does not go through it",
            hint='Set EMAIL_BACKEND (or BACKEND in MAILERS) to "celery_idempotent.mail.EmailBackend" and name '
            'the backend that sends in CELERY_IDEMPOTENT["EMAIL_BACKEND"].',
            id="celery_idempotent.W020",
        )
    ]


@register("celery_idempotent", deploy=True)
def check_store(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """W030 a store that is unfit, W031 one that does not answer. Asks it, so only with ``check --deploy``."""
    try:
        problems = get_ledger().store.problems()
    except ImproperlyConfigured:
        return []  # E002 says so
    except LedgerUnavailable as error:
        return [Warning(f"the ledger could not be asked: {error}", id="celery_idempotent.W031")]
    return [Warning(problem, id="celery_idempotent.W030") for problem in problems]
