"""System checks of the settings, and of the ledger that they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..conf import DEFAULTS, conf
from ..encryption import check_keys
from ..exceptions import LedgerUnavailable
from ..mail_settings import check_mailers
from ..stores.factory import get_ledger
from ..tasks.registry import functions
from .prerequisites import knowing_tasks, usable


@register("celery_idempotent")
def check_settings(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
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
    for read in (*reads, check_keys, check_mailers, _store):
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
@knowing_tasks
def check_queues(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """W013 a ledger that not every queue's workers will find."""
    names = [declared.name for declared in functions()]
    if not names or not usable("ledger") or conf.ledger != "auto":
        return []
    return [
        Warning(
            f"{', '.join(names)} run in workers that may not know Celery's result backend, which "
            "CELERY_IDEMPOTENT['LEDGER'] = 'auto' follows: they would look in another ledger",
            hint="Name the ledger: 'database', or a redis:// URL.",
            id="celery_idempotent.W013",
        )
    ]


@register("celery_idempotent", deploy=True)
def check_store(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """W030 a store that is unfit, W031 one that does not answer. Asks it, so only with ``check --deploy``."""
    try:
        problems = get_ledger().store.problems()
    except ImproperlyConfigured:
        return []  # E002 says so
    except LedgerUnavailable as error:
        return [Warning(f"the ledger could not be asked: {error}", id="celery_idempotent.W031")]
    return [Warning(problem, id="celery_idempotent.W030") for problem in problems]
