"""Operator decisions (resolve, reopen, release, cancel) and the search for emails, for command and admin."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from itertools import product

from ..conf import conf
from ..email_types.call_keys import folded
from ..exceptions import DeliveryInDoubt, InterventionRefused
from ..execution.reporting import tell
from ..ledger.addresses import printable
from ..ledger.decisions import Operator, changed_meanwhile
from ..ledger.entry import Entry
from ..ledger.keys import make_key
from ..ledger.policy import Verdict
from ..ledger.status import Status
from ..outbox.enqueue import forget_participants
from ..stores.factory import get_ledger
from ..tasks.registry import by_email_type
from . import search

logger = logging.getLogger("celery_idempotent")

_DECISIONS: dict[str, Callable[[Operator, Entry], Entry]] = {
    "resolve_sent": lambda operator, entry: operator.resolve(entry, Verdict.SENT),
    "resolve_not_sent": lambda operator, entry: operator.resolve(entry, Verdict.NOT_SENT),
    "reopen": lambda operator, entry: operator.reopen(entry),
    "release": lambda operator, entry: operator.release(entry),
    "cancel": lambda operator, entry: operator.cancel(entry),
}


def decide(decision: str, key: str, actor: str, reason: str, version: int | None = None) -> Entry:
    """Carry out one of `_DECISIONS` about ``key``, and return the entry as it is then.

    ``version`` is that of the entry the operator looked at, if it is known. Raises `InterventionRefused`,
    `EntryChanged`, `LedgerUnavailable`.
    """
    ledger = get_ledger()
    operator = Operator(ledger, actor, reason)
    stored = ledger.store.get(key)
    if stored is None:
        raise InterventionRefused(f"the ledger has nothing under {key}")
    if version is not None and version != stored.entry.version:
        raise changed_meanwhile(stored.entry, stored.entry)
    entry = _DECISIONS[decision](operator, stored.entry)
    if entry.status is Status.CANCELLED:
        # Their arguments are of no use any more. Resolved as sent, a body may still have to be finished.
        forget_participants(entry)
    last = entry.audit[-1]
    logger.info("%s: %s %s by %s: %s", entry.email_type, key, last.action, last.actor, last.reason)
    if decision.startswith("resolve"):
        tell(by_email_type().get(entry.email_type), entry, "operator", DeliveryInDoubt(last.reason))
    return entry


def find(text: str, limit: int = 50) -> list[Entry]:
    """Return the entries that ``text`` names: a key, the beginning of one, a task id or a Message-ID.

    Raises `LedgerUnavailable`.
    """
    store, text = get_ledger().store, printable(text)  # a shell passes on bytes that are no text
    if (exact := store.get(text)) is not None:
        return [exact.entry]
    found = (store.get(key) for key in search.matching(text, limit))
    return [stored.entry for stored in found if stored is not None]


def find_by_fields(kind: str, given: Mapping[str, str]) -> list[Entry]:
    """Return the entry of email type ``kind`` whose key fields have these values, as typed in a shell.

    A value is tried as JSON first (``7`` is a number, ``"7"`` is not) and then as text. Raises
    `InterventionRefused` where that makes no key, `LedgerUnavailable`.
    """
    known = by_email_type()
    task = known.get(kind)
    if task is None:
        raise InterventionRefused(f"no task has the email type {kind!r}; there are {', '.join(sorted(known))}")
    if task.key_function is not None or task.window_mode == "fixed":
        raise InterventionRefused(f"the keys of {kind} are not made of fields alone; give a key or a task id")
    if set(given) != set(task.key_fields):
        raise InterventionRefused(
            f"the key fields of {kind} are {', '.join(task.key_fields)}; give each of them"
        )
    store, found = get_ledger().store, []
    for values in product(*(_readings(given[name]) for name in task.key_fields)):
        fields = dict(zip(task.key_fields, map(folded, values), strict=True))
        if (stored := store.get(make_key(conf.namespace, kind, fields))) is not None:
            found.append(stored.entry)
    return found


def _readings(text: str) -> list[str | int]:
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    return [value, text] if isinstance(value, int | str) else [text]
