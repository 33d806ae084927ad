"""The outbox: an intention is a row in the caller's own transaction, and a message once that has committed.

A rollback leaves nothing. What is committed stays until the ledger knows the email's end, so that a message
which got lost is published again, always under its own task id: however many copies of it reach a worker, they
are one task to the ledger, which sends once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Celery, Signature, uuid
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..conf import conf
from ..email_types.call_keys import Identity
from ..exceptions import UnsafeTransaction
from ..ledger.entry import Entry
from ..models import OutboxMessage
from ..stores.database.connection import translated
from ..stores.database.own_connection import OWN_ALIAS, ledger_alias
from . import rows as store
from .options import checked
from .payload import pack, seal
from .publish import BrokerDown, hand_over, redeliver_in, send

logger = logging.getLogger("celery_idempotent")

AT_ONCE = 100
"""Messages that a caller publishes itself after a commit, in about a tenth of a second.

A request that enqueues thousands must not last until the broker has them all: the relay takes the others.
"""
_PAUSE = 5.0
"""Seconds without further tries by this process after the broker did not answer: its requests go on."""
_not_before = 0.0


@dataclass(frozen=True)
class Intention:
    """One call to be made: arguments and options of ``apply_async``."""

    identity: Identity
    args: Sequence[object]
    kwargs: Mapping[str, object]
    options: Mapping[str, object]


def record(task: Any, intentions: Sequence[Intention], using: str | None = None) -> list[str]:
    """Write ``intentions`` on the caller's connection and publish them after its commit; return the task ids.

    All but the first `AT_ONCE` are left to the relay, due at once; in eager mode none is.
    Raises `ArgumentsNotSerializable`, `TypeError`, `ValueError` and `ImproperlyConfigured` before anything is
    written, and `UnsafeTransaction` where the rows would not share the fate of the caller's transaction.
    """
    alias = _alias(task, using)
    rows = [_row(task, intention) for intention in intentions]
    own = rows if task.app.conf.task_always_eager else rows[:AT_ONCE]
    store.add(alias, rows, len(own))
    connection = connections[alias]
    if connection.in_atomic_block or connection.get_autocommit():
        transaction.on_commit(partial(_publish, task.app, alias, own, len(rows) - len(own)), using=alias)
    return [row.task_id for row in rows]


def taken_apart(task: Any, call: object) -> tuple[tuple[object, ...], dict[str, object], dict[str, object]]:
    """Return args, kwargs and options of a ``call`` of ``task``. Raises `TypeError` for what is not one."""
    if isinstance(call, Signature):
        if call.task != task.name:
            raise TypeError(f"{task.name}: enqueue_many got a signature of {call.task}")
        return tuple(call.args), dict(call.kwargs), dict(call.options)
    if isinstance(call, Mapping):
        return (), dict(call), {}
    if isinstance(call, tuple | list):
        return tuple(call), {}, {}
    raise TypeError(
        f"{task.name}: enqueue_many takes tuples of arguments, dicts of keyword arguments or signatures, "
        f"not {type(call).__name__}"
    )


def forget(alias: str, *task_ids: str) -> None:
    """Remove the rows of messages whose email has come to its end. One statement."""
    store.remove(ledger_alias() if alias == conf.database else alias, task_ids)


def forget_participants(entry: Entry) -> None:
    """Remove the rows of all tasks that took part in ``entry``: none of them will be sent any more.

    Where that fails, the relay does it when their time comes.
    """
    task_ids = tuple(dict.fromkeys((entry.owner, *entry.participants, *entry.past)))
    for alias in conf.outbox_databases:
        try:
            forget(alias, *task_ids)
        except DatabaseError as error:
            logger.warning("%s: the outbox of %r is left to the relay: %s", entry.key, alias, error)


def kept_in(task_id: str) -> str | None:
    """Return the database whose outbox has the message of ``task_id``, if any. Raises `LedgerUnavailable`."""
    for alias in conf.outbox_databases:
        with translated(alias):
            if store.rows_of(alias).filter(task_id=task_id).exists():
                return alias
    return None


# -- what is written -------------------------------------------------------------------------------------


def _alias(task: Any, using: str | None) -> str:
    """Return the database whose transaction the rows have to be part of."""
    known = conf.outbox_databases
    if using is not None:
        if using not in known:
            raise ImproperlyConfigured(
                f"enqueue(using={using!r}): no relay looks there. Add {using!r} to "
                f"CELERY_IDEMPOTENT['OUTBOX_DATABASES'], which is {known}, and migrate that database"
            )
        return using
    opened = [c.alias for c in connections.all(initialized_only=True) if _holds_transaction(c)]
    if len(opened) > 1:
        raise UnsafeTransaction(_several_open(task, opened, known))
    if opened and opened[0] not in known:
        raise UnsafeTransaction(
            f"{task.name}: a transaction is open on {opened[0]!r}, and its rollback would not take back a "
            f"message in the outbox of {known[0]!r}. Nothing was written. Add {opened[0]!r} to "
            f"CELERY_IDEMPOTENT['OUTBOX_DATABASES'], or say using={known[0]!r} where that is meant"
        )
    return opened[0] if opened else known[0]


def _several_open(task: Any, opened: Sequence[str], known: Sequence[str]) -> str:
    """Return what to say where any of several rollbacks may be the one that has to take the message back."""
    names = " and ".join(map(repr, opened))
    choice = " or ".join(f"using={alias!r}" for alias in known)
    return (
        f"{task.name}: transactions are open on {names}, and which of them the message belongs to cannot be "
        f"told. Nothing was written. Say it to enqueue_with or enqueue_many: {choice}. Any other has to be in "
        "CELERY_IDEMPOTENT['OUTBOX_DATABASES'] first"
    )


def _holds_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether a transaction of the caller's is open; the ledger's and a ``TestCase``'s are not."""
    if connection.alias == OWN_ALIAS or connection.connection is None:
        return False
    if connection.in_atomic_block:
        return not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    return not connection.autocommit


def _row(task: Any, intention: Intention) -> OutboxMessage:
    options = checked(task, intention.options)
    payload, encrypted = seal(pack(task, intention.args, intention.kwargs, options))
    return OutboxMessage(
        task_id=uuid(),
        task=task.name,
        key=intention.identity.key,
        label=intention.identity.label[:255],
        fingerprint=intention.identity.fingerprint,
        payload=payload,
        encrypted=encrypted,
        eta=options.get("eta"),
    )


# -- what is published -----------------------------------------------------------------------------------


def _publish(app: Celery, alias: str, rows: Sequence[OutboxMessage], others: int) -> None:
    """Publish what has just been committed. Whatever fails here, the caller goes on and a relay takes over."""
    global _not_before
    if others:
        logger.info("outbox: %d more messages of %s are left to the relay", others, rows[0].task)
    if app.conf.task_always_eager:
        return _publish_eagerly(app, alias, rows)
    try:
        if time.monotonic() < _not_before:
            return store.give_back(alias, rows)
        for task_name, reason in send(app, alias, rows).faults:
            logger.error("outbox: a message of %s waits: %s", task_name, reason)
    except BrokerDown as down:
        _not_before = time.monotonic() + _PAUSE
        logger.warning("outbox: %s; what is in the outbox waits for the relay", down)
    except Exception:
        logger.exception("outbox: what was committed could not be published; the relay will")


def _publish_eagerly(app: Celery, alias: str, rows: Sequence[OutboxMessage]) -> None:
    """Run the tasks here and now, as Celery's eager mode does; what they raise is its business."""
    for row in rows:
        store.published(alias, [row], redeliver_in)
        hand_over(app, alias, row)
