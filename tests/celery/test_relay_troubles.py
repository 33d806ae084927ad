"""What goes wrong with one outbox, or with one message in it, is nobody else's trouble."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.local import Proxy
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections

from celery_idempotent import IdempotentTask
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations import relay
from celery_idempotent.operations.relay import Relay
from celery_idempotent.outbox import enqueue
from celery_idempotent.outbox import rows as store

pytestmark = pytest.mark.django_db(transaction=True)
app = Celery("troubled", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentTask, key_fields=("n",), name="troubled")
def troubled(n: int) -> None: ...


@pytest.fixture(autouse=True)
def _quiet(memory_ledger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty ledger, and nothing published but by the relay."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)


@pytest.fixture
def missing(transactional_db: None, django_db_blocker: Any, settings: Any, tmp_path: Path) -> Iterator[None]:
    """Another database with an outbox, which comes first and has no table yet."""
    place = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other.sqlite3")}
    connections.settings["other"] = {**connections["default"].settings_dict, "TEST": {}, **place}
    settings.CELERY_IDEMPOTENT |= {"OUTBOX_DATABASES": ["other", "default"]}
    with django_db_blocker.unblock():
        yield
    connections["other"].close()
    del connections.settings["other"]
    del connections["other"]


@pytest.mark.usefixtures("missing")
def test_a_database_that_is_away_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: the messages of the others go out, and it is told all the same."""
    troubled.enqueue_with((1,), using="default")
    OutboxMessage.objects.update(due_at=store.StoreNow())
    with pytest.raises(DatabaseError, match="no such table"):
        Relay(app).once()
    assert OutboxMessage.objects.get().tries == 1
    monkeypatch.setattr(relay, "current_app", Proxy(lambda: app))
    with pytest.raises(CommandError, match=r"no such table.*What waits is kept"):
        call_command("idempotency", "relay")


@pytest.mark.parametrize("payload", ["ünlesbar", "nonsense", "", "\x00"], ids=repr)
def test_a_sealed_message_that_is_damaged(settings: Any, payload: str) -> None:
    """It stays, with the reason; those behind it go out."""
    settings.CELERY_IDEMPOTENT |= {"ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}
    troubled.enqueue(1)
    OutboxMessage.objects.update(payload=payload)
    troubled.enqueue(2)
    OutboxMessage.objects.update(due_at=store.StoreNow())
    outcome = Relay(app).once()
    assert (outcome.published, outcome.faults.total()) == (1, 1)
    assert "its arguments are encrypted" in OutboxMessage.objects.get(tries=0).error
