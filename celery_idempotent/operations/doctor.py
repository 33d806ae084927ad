"""Diagnose what a working ledger needs, and count what waits for somebody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.core.checks import ERROR, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.utils import Error as DatabaseError

from ..conf import conf
from ..exceptions import LedgerUnavailable
from ..ledger.status import Status
from ..outbox import rows as outbox_rows
from ..stores.database.connection import translated
from ..stores.database.own_connection import OWN_ALIAS, ledger_alias
from ..stores.factory import get_ledger, ledger_name
from ..tasks.registry import by_email_type
from . import search
from .sweep import STUCK_AFTER

APP = "celery_idempotent"
_LATE = 300.0
"""Seconds that the relay may be late before it is worth a word."""
_FAULTS = 5
"""Kinds of messages that cannot be published: each may be there a thousand times."""
OK, WAITS, WRONG = "ok", "waits", "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    about: str
    state: str
    """`OK`, `WAITS` (for somebody's decision) or `WRONG`."""
    text: str


def examine(stuck_after: float = STUCK_AFTER) -> Iterator[Finding]:
    """Yield what was found. Never raises for what is broken: that is a finding."""
    yield from _checks()
    yield from _answer("ledger", _ledger)
    if search.has_tables():
        yield from _answer("migrations", _migrations)
        yield from _answer("connection", _connection)
        yield from _answer("entries", lambda: _entries(stuck_after))
    yield from _answer("outbox", _outbox)
    types = by_email_type()
    known = ", ".join(sorted(types)) or "none: is your Celery app imported, and does it find your tasks?"
    yield Finding("email types", OK if types else WRONG, known)


def _answer(about: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except (
        LedgerUnavailable,
        ImproperlyConfigured,
        DatabaseError,
        CommandError,
        InconsistentMigrationHistory,
    ) as error:
        yield Finding(about, WRONG, str(error).strip())


def _checks() -> Iterator[Finding]:
    """Run the checks that ``check --deploy`` runs of this app, but for those that the project has silenced."""
    found = run_checks(tags=[APP], include_deployment_checks=True)
    for message in (told := [one for one in found if not one.is_silenced()]):
        state = WRONG if message.level >= ERROR or message.id in _UNFIT else WAITS
        about = str(message.id).removeprefix(f"{APP}.")
        yield Finding(f"check {about}", state, f"{message.msg}. {message.hint or ''}".rstrip())
    if not told:
        yield Finding("system checks", OK, "nothing to say")


_UNFIT = (f"{APP}.W030", f"{APP}.W031")


def _ledger() -> Iterator[Finding]:
    store = get_ledger().store
    yield Finding(
        "ledger", OK, f"{type(store).__name__} answers; its clock says {store.now():%Y-%m-%d %H:%M:%S} UTC"
    )


def _migrations() -> Iterator[Finding]:
    """Run ``migrate --check``, which ends the process where something is not applied."""
    command = f"manage.py migrate {APP} --database={conf.database}"
    try:
        call_command("migrate", APP, database=conf.database, check_unapplied=True, verbosity=0)
    except SystemExit:
        yield Finding("migrations", WRONG, f"not all applied: run `{command}`")
    else:
        yield Finding("migrations", OK, f"all applied on {conf.database!r}")


def _connection() -> Iterator[Finding]:
    alias, base = ledger_alias(), conf.database
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
    if alias == OWN_ALIAS:
        yield Finding("connection", OK, f"{alias!r}, the ledger's own to the database of {base!r}")
    elif connections[base].vendor == "sqlite":
        text = (
            f"{base!r} is SQLite, with one writer: send after the commit, or give the ledger a file of its own"
        )
        yield Finding("connection", OK, text)
    elif ledger_name() == "database":
        text = f"the ledger writes on {base!r} itself: a rollback of yours would undo what has really happened"
        yield Finding("connection", WRONG, text)


def _outbox() -> Iterator[Finding]:
    for alias in conf.outbox_databases:
        with translated(alias):
            faults, late = outbox_rows.faults(alias, _FAULTS), outbox_rows.overdue(alias, _LATE)
        for task, error, number, one in faults:
            text = f"{number} messages of {task} in {alias!r}, such as {one}, cannot be published: {error}"
            yield Finding("outbox", WAITS, text)
        if late:
            text = f"{late} messages overdue in {alias!r}: is there a relay of their app, and a broker?"
            yield Finding("outbox", WAITS, text)
        elif not faults:
            yield Finding("outbox", OK, f"on time in {alias!r}")


def _entries(stuck_after: float) -> Iterator[Finding]:
    with search.rows() as rows:
        doubtful = rows.in_doubt().count()
        stuck = rows.stuck(stuck_after).exclude(status=Status.IN_DOUBT.value).count()
        unfinished = rows.unfinished(stuck_after).count()
    text = f"{doubtful}: `manage.py idempotency stats --in-doubt` lists them" if doubtful else "none"
    yield Finding("in doubt", WAITS if doubtful else OK, text)
    text = (
        f"{stuck} unchanged for {stuck_after:.0f} s: `manage.py idempotency stats --stuck`" if stuck else "none"
    )
    yield Finding("stuck", WAITS if stuck else OK, text)
    text = (
        f"{unfinished} sent, and cut off before their bodies' end: `manage.py idempotency stats --unfinished`"
        if unfinished
        else "none"
    )
    yield Finding("unfinished", OK, text)  # nobody can tell whether such a body had more to send
