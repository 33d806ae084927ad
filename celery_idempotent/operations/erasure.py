"""Erase a recipient from every store; the keys stay closed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..conf import conf
from ..exceptions import InterventionRefused
from ..ledger.addresses import SHORT, is_address, mask_all, recipient, spellings
from ..ledger.decisions import Operator, named
from ..ledger.entry import Entry
from ..ledger.erasure import scrubbed
from ..ledger.ledger import Ledger
from ..outbox.enqueue import forget_participants, kept_in
from ..stores.database.own_connection import ledger_alias
from ..stores.database.store import DatabaseStore
from ..stores.factory import get_ledger


@dataclass(slots=True)
class Forgotten:
    """What became of a recipient."""

    erased: set[str] = field(default_factory=set)
    """Keys of the entries that have forgotten."""
    left: dict[str, str] = field(default_factory=dict)
    """Why others could not yet, by key."""
    cut_off: set[str] = field(default_factory=set)
    """Keys of those erased whose body had not come to its end: nobody sends the rest of it any more."""


def forget(address: str, actor: str, reason: str, app: Any = None) -> Forgotten:
    """Erase ``address`` from every finished entry, in the ledger and in its mirror.

    What is not finished is left as it is, and told: without the digest its recipient could get a second copy.
    So is a body that its own message in an outbox will still finish, for others are owed the rest of it.
    Raises `InterventionRefused` for what is no address, `LedgerUnavailable`; it may be called again.
    """
    if not is_address(address):
        raise InterventionRefused("what is to be forgotten has to be one address, such as ann@example.com")
    digest = recipient(address, conf.recipient_salt, "digest").digest
    words = [*spellings(address), digest[:SHORT]]
    # What is written about the decision must not name them again.
    actor, reason = (scrubbed(mask_all(str(text or "")), words) for text in (actor, reason))
    found, ledger = Forgotten(), get_ledger(app)
    for key in list(ledger.store.naming(digest)):
        _erase(Operator(ledger, actor, reason), key, digest, words, found)
    if ledger.mirror is not None:
        tables = Ledger(DatabaseStore(ledger_alias))
        for key in list(tables.store.naming(digest)):
            if key in found.left:
                continue
            if ledger.store.get(key) is None:  # the ledger has forgotten already, the mirror has not
                _erase(Operator(tables, actor, reason), key, digest, words, found)
            else:
                tables.store.erase(key, digest, words)
                found.erased.add(key)
    return found


def _erase(operator: Operator, key: str, digest: str, words: list[str], found: Forgotten) -> None:
    stored = operator.store.get(key)
    if stored is None:
        return
    if waiting := _to_be_finished(stored.entry):
        found.left[key] = waiting
        return
    try:
        entry = operator.forget(stored.entry, digest, words)
    except InterventionRefused as refused:
        found.left[key] = str(refused)
        return
    forget_participants(entry)  # their arguments, if nobody has removed them yet
    operator.store.erase(key, digest, words)
    found.erased.add(key)
    if stored.entry.unfinished:
        found.cut_off.add(key)


def _to_be_finished(entry: Entry) -> str:
    """Return why ``entry`` cannot be erased yet: its body was cut off, and the relay will have it finished."""
    alias = kept_in(entry.owner) if entry.unfinished else None
    if alias is None:
        return ""
    return (
        f"{named(entry)} was cut off: its body has still to be finished by {entry.owner}, whose message is "
        f"in the outbox of {alias!r}. Let the relay and a worker run and come back; or, to give up what is not "
        f"sent yet, in a shell: OutboxMessage.objects.using({alias!r}).filter(task_id={entry.owner!r}).delete()"
    )
