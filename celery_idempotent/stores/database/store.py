"""A store in a Django database: PostgreSQL, MariaDB, MySQL or SQLite, by its own clock.

Writes commit on a connection of the ledger's own, so that a rollback of the caller's transaction does not
undo what really happened. `own_connection.ledger_alias` decides which connection that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from django.db import DEFAULT_DB_ALIAS, IntegrityError, connections, transaction
from django.db.models import F, QuerySet

from ...exceptions import UnsafeTransaction
from ...ledger.entry import Attempt, Delivery, Entry
from ...ledger.erasure import nobody, scrubbed
from ...ledger.store import Store, Stored
from ...models import Delivery as DeliveryRow
from ...models import LogicalEmail, SendAttempt
from ...models.clock import StoreNow, clock
from . import orm, postgresql
from .connection import cannot_insert, open_transaction, translated
from .rows import entry_of

CHUNK = 1000
"""Rows in a statement that removes: SQLite limits its variables, and a batch may be of any size."""


class DatabaseStore(Store):
    """Entries in the tables of `models`. ``alias`` is a callable: it depends on the caller's connection.

    With ``joining``, a transaction that the caller has open on the ledger's own SQLite connection is joined
    instead of refused: for eager tasks, which are part of their caller.
    """

    def __init__(self, alias: Callable[[], str] = lambda: DEFAULT_DB_ALIAS, joining: bool = False) -> None:
        self._alias = alias
        self._joining = joining

    @contextmanager
    def _connection(self) -> Iterator[str]:
        """Yield the alias to write on, for one atomic write. Database errors become `LedgerUnavailable`."""
        alias = self._alias()
        holder = open_transaction(alias) if connections[alias].vendor == "sqlite" else None
        if holder is not None and not (self._joining and holder == alias):
            raise UnsafeTransaction(
                f"a transaction is open on {holder!r}, the SQLite database that also keeps the ledger, and a "
                "second writer would wait for it forever. Nothing was sent. Send outside atomic() (for example "
                "with delay_on_commit), or give the ledger a file of its own: CELERY_IDEMPOTENT['DATABASE']"
            )
        with translated(alias):
            if connections[alias].vendor == "postgresql":
                yield alias  # one statement is a transaction of its own
            else:
                with transaction.atomic(using=alias):
                    yield alias

    @contextmanager
    def _reading(self) -> Iterator[str]:
        """Yield the alias to read from, in whatever transaction there is: that is harmless."""
        alias = self._alias()
        with translated(alias):
            yield alias

    def insert(self, entry: Entry, attempt: Attempt | None = None) -> Stored:
        """One statement on PostgreSQL; elsewhere an INSERT, or an UPDATE that counts the arrival."""
        with self._connection() as alias:
            if connections[alias].vendor != "postgresql":
                return orm.insert(alias, entry, attempt)
            try:
                stored = postgresql.insert(alias, entry, attempt)
            except IntegrityError as error:  # that the key is there is none
                raise cannot_insert(entry, error) from error
            return stored or self.get(entry.key) or self.insert(entry, attempt)

    def swap(
        self,
        entry: Entry,
        version: int,
        attempt: Attempt | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> Stored | None:
        """One statement on PostgreSQL; elsewhere an UPDATE and its rows in one transaction."""
        with self._connection() as alias:
            swap = postgresql.swap if connections[alias].vendor == "postgresql" else orm.swap
            return swap(alias, entry, version, attempt, deliveries)

    def get(self, key: str) -> Stored | None:
        """One SELECT, and one more where there are deliveries."""
        with self._reading() as alias:
            return orm.get(alias, key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Stored]:
        """One SELECT, without deliveries."""
        with self._reading() as alias:
            rows = LogicalEmail.objects.using(alias).filter(key__in=keys).annotate(store_now=StoreNow())
            return {row.key: orm.stored_of(alias, row, ()) for row in rows}

    def due(self, limit: int = 100) -> Sequence[Entry]:
        """One SELECT on the (status, deadline) index; deliveries are not loaded."""
        with self._reading() as alias:
            rows = LogicalEmail.objects.using(alias).overdue()[:limit]
            return [entry_of(alias, vars(row), ()) for row in rows]

    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        """Remove finished entries, their deliveries and attempts, in one transaction.

        The rows are locked first, where there are such locks: a claim that comes meanwhile finds them gone, and
        what a claim has locked stays.
        """
        with self._connection() as alias, transaction.atomic(using=alias, savepoint=False):
            rows = LogicalEmail.objects.using(alias)
            old = rows.finished(older_than)
            if dry_run:
                return old[:limit].count()
            skipping = connections[alias].features.has_select_for_update_skip_locked
            keys = list(old.select_for_update(skip_locked=skipping).values_list("pk", flat=True)[:limit])
            return sum(_delete(rows, keys[start : start + CHUNK]) for start in range(0, len(keys), CHUNK))

    def naming(self, digest: str) -> Sequence[str]:
        """One SELECT on the deliveries' index of digests."""
        with self._reading() as alias:
            rows = DeliveryRow.objects.using(alias).filter(digest=digest)
            return list(rows.values_list("email__key", flat=True).distinct())

    def erase(self, key: str, digest: str, words: Sequence[str]) -> None:
        """Erase the rows: of the generation that is, the entry has written new ones."""
        with self._connection() as alias, transaction.atomic(using=alias, savepoint=False):
            rows = DeliveryRow.objects.using(alias).filter(email__key=key)
            rows.filter(digest=digest, generation=F("email__generation")).delete()
            for row in rows.filter(digest=digest):
                who = nobody()
                row.digest, row.recipient = who.digest, who.shown
                row.save(using=alias, update_fields=["digest", "recipient"])
            for table in (rows, SendAttempt.objects.using(alias).filter(email__key=key)):
                for told in table.exclude(detail=""):
                    table.filter(pk=told.pk).update(detail=scrubbed(told.detail, words))

    def problems(self) -> Sequence[str]:
        """Look for the tables. Raises `LedgerUnavailable` where they are missing or nobody answers."""
        self.get("")
        return ()

    def now(self) -> datetime:
        """One SELECT of the database's clock."""
        with self._reading() as alias:
            return clock(alias)


def _delete(rows: QuerySet[LogicalEmail], keys: Sequence[int]) -> int:
    _, counts = rows.filter(pk__in=keys).only("pk").delete()  # Django reads what it deletes
    return counts.get(LogicalEmail._meta.label, 0)
