"""How arguments are kept in the outbox: by which serializer, and encrypted."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from cryptography.fernet import Fernet

from celery_idempotent import ArgumentsNotSerializable, IdempotentTask
from celery_idempotent.models import OutboxMessage
from celery_idempotent.operations.relay import Relay
from tests.celery.outbox_tasks import Broker, app, make_due, owed

pytestmark = pytest.mark.django_db(transaction=True)


OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


def _keys(settings: Any, *keys: str) -> None:
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "ENCRYPTION_KEYS": list(keys)}


def test_arguments_are_encrypted_and_keys_rotate(broker: Broker, settings: Any) -> None:
    """P7: nothing of the arguments or options is readable; a key in use is put behind the new one."""
    _keys(settings, OLD)
    owed.enqueue_with((1,), {"text": "secret token"}, headers={"also": "a secret"})
    row = OutboxMessage.objects.get()
    assert row.encrypted
    assert "secret" not in str(vars(row))
    broker.lose()
    _keys(settings, NEW, OLD)
    make_due()
    assert Relay(app).once().published == 1
    assert broker.take()[0].decode()[1] == {"text": "secret token"}


@pytest.mark.parametrize(("keys", "text"), [((), "has no key"), ((OTHER,), "no key in")])
def test_a_lost_key_loses_no_message(broker: Broker, settings: Any, keys: Any, text: str) -> None:
    """The row stays and says why; with the key back it goes out."""
    _keys(settings, OLD)
    owed.enqueue(1, text="secret")
    broker.lose()
    _keys(settings, *keys)
    make_due()
    assert sum(Relay(app).once().faults.values()) == 1
    row = OutboxMessage.objects.get()
    assert text in row.error
    assert "secret" not in row.error
    _keys(settings, OLD)
    make_due()
    assert Relay(app).once().published == 1
    assert OutboxMessage.objects.get().error == ""


def test_messages_from_before_there_was_a_key(broker: Broker, settings: Any) -> None:
    """They are sent as they are."""
    owed.enqueue(1)
    broker.lose()
    _keys(settings, NEW)
    make_due()
    assert Relay(app).once().published == 1


def test_a_serializer_of_the_project(broker: Broker) -> None:
    """Binary ones as well; one that is not accepted any more is a reason, not a loss."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="pickled", serializer="pickle")
    def pickled(n: int, when: Any) -> None: ...

    app.conf.accept_content = ["json", "pickle"]
    when = datetime(2026, 1, 1, tzinfo=timezone.utc)
    try:
        pickled.enqueue(1, {"set": {1, 2}, "when": when})
        message = broker.take()[0]
        message.accept = {"application/x-python-serialize"}
        assert message.decode()[0] == [1, {"set": {1, 2}, "when": when}]
    finally:
        app.conf.accept_content = ["json"]
    make_due()
    assert Relay(app).once().published == 0
    assert "accept_content" in OutboxMessage.objects.get().error


@pytest.mark.parametrize("where", ["call", "task"])
def test_a_serializer_that_nobody_knows_is_named(broker: Broker, where: str) -> None:
    """Bad input: it is the serializer that is wrong, whatever the arguments are."""
    options = {"serializer": "nonsense"}
    declared, given = ({}, options) if where == "call" else (options, {})

    @app.task(base=IdempotentTask, key_fields=("n",), name=f"nonsense-{where}", **declared)
    def nonsense(n: int) -> None: ...

    with pytest.raises(ArgumentsNotSerializable) as raised:
        nonsense.enqueue_with((1,), **given)
    assert f"nonsense-{where}: Celery knows no serializer 'nonsense'. Name one" in str(raised.value)
    assert "argument" not in str(raised.value)
    assert not OutboxMessage.objects.exists()
