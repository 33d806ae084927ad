"""The router: the ledger in a database of its own, the outbox with the project's data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections, transaction

from celery_idempotent import IdempotentTask, UnsafeTransaction
from celery_idempotent.models import LogicalEmail, OutboxMessage
from celery_idempotent.outbox import enqueue
from celery_idempotent.outbox import rows as store
from celery_idempotent.router import LedgerRouter
from tests.support.databases import added
from tests.support.servers import Postgres

OUTBOX_TABLE = "celery_idempotent_outboxmessage"

app = Celery("router", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentTask, key_fields=("n",), name="routed")
def routed(n: int) -> None: ...


@pytest.fixture
def archive(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_ledger: Any) -> Any:
    """A second database, empty."""
    default = connections["default"].settings_dict
    name = str(tmp_path / "archive.sqlite3")
    connections.settings["archive"] = {
        **default,
        "TEST": {},
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": name,
    }
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)

    def having(**values: Any) -> None:
        settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, **values}

    yield having
    connections["archive"].close()
    del connections.settings["archive"]
    del connections["archive"]


def test_each_table_is_made_where_it_belongs(archive: Any, settings: Any, django_db_blocker: Any) -> None:
    """The outbox is part of the project's transactions; the ledger must not be."""
    archive(DATABASE="archive")
    settings.DATABASE_ROUTERS = ["celery_idempotent.router.LedgerRouter"]
    router = LedgerRouter()
    assert (router.db_for_write(LogicalEmail), router.db_for_read(OutboxMessage)) == ("archive", "default")
    assert router.allow_migrate("default", "celery_idempotent", "outboxmessage") is True
    assert router.allow_migrate("default", "celery_idempotent", "logicalemail") is False
    assert router.allow_migrate("archive", "celery_idempotent", "outboxmessage") is False
    assert router.allow_migrate("archive", "shop", "order") is None
    with django_db_blocker.unblock():
        call_command("migrate", "celery_idempotent", database="archive", verbosity=0)
        tables = connections["archive"].introspection.table_names()
    assert "celery_idempotent_logicalemail" in tables
    assert "celery_idempotent_outboxmessage" not in tables


class OutboxAlone:
    """A project's own router: nothing but the outbox is in the database ``project``."""

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **_: Any) -> bool | None:
        return model_name == "outboxmessage" if db == "project" and model_name else None


def test_a_database_with_an_outbox_alone_can_be_migrated(
    postgres: Postgres, settings: Any, django_db_setup: None, django_db_blocker: Any
) -> None:
    """Forwards and back to nothing, though a migration is about the ledger's table, which is not there."""
    settings.DATABASE_ROUTERS = [OutboxAlone()]
    with (
        django_db_blocker.unblock(),
        added("server", postgres.database),
        connections["server"].cursor() as cursor,
    ):
        cursor.execute("CREATE DATABASE project")
    with django_db_blocker.unblock(), added("project", {**postgres.database, "NAME": "project"}):
        tables = connections["project"].introspection.table_names()
        call_command("migrate", "celery_idempotent", "zero", database="project", verbosity=0)
        left = connections["project"].introspection.table_names()
    assert [name for name in tables if name.startswith("celery_idempotent")] == [OUTBOX_TABLE]
    assert OUTBOX_TABLE not in left


@pytest.mark.django_db(transaction=True)
def test_an_intention_goes_where_the_transaction_is(archive: Any, django_db_blocker: Any) -> None:
    """The database with the open transaction, of those that have an outbox; a rollback there takes it back."""
    archive(OUTBOX_DATABASES=["default", "archive"])
    with django_db_blocker.unblock():
        call_command("migrate", "celery_idempotent", database="archive", verbosity=0)
        with transaction.atomic(using="archive"):
            routed.enqueue(1)
            transaction.set_rollback(True, using="archive")
        assert store.rows_of("archive").count() == 0
        with transaction.atomic(using="archive"):
            routed.enqueue(2)
        routed.enqueue(3)
        routed.enqueue_with((4,), using="archive")
        assert [row.label for row in store.rows_of("archive").order_by("pk")] == ["n=2", "n=4"]
        assert [row.label for row in store.rows_of("default")] == ["n=3"]


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_has_no_outbox_is_an_error(archive: Any, django_db_blocker: Any) -> None:
    """Its rollback would leave the message in the other database. Whoever means that can say so."""
    with django_db_blocker.unblock(), transaction.atomic(using="archive"):
        with pytest.raises(UnsafeTransaction, match=r"routed: a transaction is open on 'archive'.*OUTBOX_"):
            routed.enqueue(1)
        with pytest.raises(ImproperlyConfigured, match="no relay looks there"):
            routed.enqueue_with((1,), using="archive")
        routed.enqueue_with((2,), using="default")
    assert [row.label for row in store.rows_of("default")] == ["n=2"]


@contextmanager
def within(*aliases: str, testcase: bool = False) -> Iterator[None]:
    """An atomic block on each of ``aliases``, the last one innermost: of a ``TestCase``, or a caller's."""
    with ExitStack() as stack:
        for alias in aliases:
            block = transaction.atomic(using=alias)
            block._from_testcase = testcase  # type: ignore[attr-defined]
            stack.enter_context(block)
        yield


@pytest.fixture
def both(transactional_db: None, archive: Any, django_db_blocker: Any) -> Iterator[Any]:
    """Two databases with the outbox's table; which of them have an outbox is the test's to say."""
    with django_db_blocker.unblock():
        call_command("migrate", "celery_idempotent", database="archive", verbosity=0)
        yield lambda *aliases: archive(OUTBOX_DATABASES=list(aliases))


def kept() -> dict[str, list[str]]:
    """What the outbox of each database holds."""
    return {alias: [row.label for row in store.rows_of(alias)] for alias in ("default", "archive")}


@pytest.mark.parametrize("configured", [("default",), ("archive",), ("default", "archive")], ids=repr)
@pytest.mark.parametrize("opened", [("default", "archive"), ("archive", "default")], ids=repr)
def test_with_two_transactions_open_the_caller_has_to_say_which(
    both: Any, configured: tuple[str, ...], opened: tuple[str, str]
) -> None:
    """Else the rollback of one would leave, and have published, what the other's outbox holds."""
    both(*configured)
    several = r"routed: transactions are open on 'default' and 'archive'.*Nothing was written.*using='{}'"
    for alias in configured:
        with within(*opened), pytest.raises(UnsafeTransaction, match=several.format(alias)):
            routed.enqueue_many([(1,)])
    assert kept() == {"default": [], "archive": []}
    for alias in configured:
        with within(*opened):
            routed.enqueue_with((2,), using=alias)
        assert kept()[alias] == ["n=2"]
        with suppress(ZeroDivisionError), within(*opened):
            routed.enqueue_with((3,), using=alias)
            raise ZeroDivisionError
        assert kept()[alias] == ["n=2"]


@pytest.mark.parametrize("configured", [("default",), ("archive",), ("default", "archive")], ids=repr)
def test_what_djangos_test_case_has_opened_is_nobodys_transaction(
    both: Any, configured: tuple[str, ...]
) -> None:
    """It opens one on each database of the test; a caller's own block among them counts as anywhere else."""
    both(*configured)
    with within("default", "archive", testcase=True):
        routed.enqueue(1)
        assert kept()[configured[0]] == ["n=1"]
        for alias in ("default", "archive"):
            with within(alias):
                if alias in configured:
                    routed.enqueue(2)
                    assert "n=2" in kept()[alias]
                    continue
                with pytest.raises(UnsafeTransaction, match=f"a transaction is open on '{alias}'"):
                    routed.enqueue(2)
        with within("default", "archive"), pytest.raises(UnsafeTransaction, match="transactions are open on"):
            routed.enqueue(3)


def test_a_connection_that_commits_by_hand_has_a_transaction_open(both: Any) -> None:
    """Beside an atomic block elsewhere there are two."""
    both("default")
    transaction.set_autocommit(False, using="archive")
    try:
        with within("default"), pytest.raises(UnsafeTransaction, match="transactions are open on"):
            routed.enqueue(1)
    finally:
        transaction.set_autocommit(True, using="archive")
