"""What the mirror owes is noted until it is written, whoever is interrupted on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import Status
from celery_idempotent.models import LogicalEmail
from celery_idempotent.stores import factory
from celery_idempotent.stores.database.mirror import DatabaseMirror
from celery_idempotent.testing import make_entry

pytestmark = pytest.mark.process

app = Celery("noted", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.fixture
def mirror(keep_ledger_in: Callable[[str], None], db: None) -> DatabaseMirror:
    """A ledger in Redis whose mirror owes one entry."""
    keep_ledger_in("redis")
    mirror = factory.get_ledger(app).mirror
    assert mirror is not None
    mirror.store.insert(make_entry("owed"))
    mirror.store.mark_stale("owed")
    return mirror


def written(mirror: DatabaseMirror, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Have ``then`` happen right after the next row is written."""
    write = mirror._write

    def once(entry: Any) -> None:
        monkeypatch.setattr(mirror, "_write", write)
        write(entry)
        then()

    monkeypatch.setattr(mirror, "_write", once)


def change(mirror: DatabaseMirror) -> None:
    """What a worker does whose email ends while the database does not answer."""
    stored = mirror.store.get("owed")
    assert stored is not None
    assert mirror.store.swap(make_entry("owed", status=Status.SENT), stored.entry.version)
    mirror.store.mark_stale("owed")


def test_a_sweep_that_is_interrupted_loses_no_note(
    mirror: DatabaseMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, or by Ctrl-C: the row would be behind for ever, and a doubt that it hides found by nobody."""

    def struck(entry: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(mirror, "_write", struck)
        with pytest.raises(KeyboardInterrupt):
            mirror.catch_up()
    assert mirror.catch_up() == 1
    assert LogicalEmail.objects.get().key == "owed"
    assert mirror.store.stale_keys() == []


def test_what_is_noted_anew_meanwhile_is_written_as_well(
    mirror: DatabaseMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both notes are one: it must not go with the older state."""
    written(mirror, monkeypatch, lambda: change(mirror))
    while mirror.catch_up():
        pass
    assert LogicalEmail.objects.get().status == "sent"
    assert mirror.store.stale_keys() == []


def test_what_expires_while_it_is_written(mirror: DatabaseMirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone from the ledger, and nothing is owed any more."""
    store: Any = mirror.store
    written(mirror, monkeypatch, lambda: store.client.delete(store.place("owed")))
    assert mirror.catch_up() == 1
    assert mirror.catch_up() == 0
