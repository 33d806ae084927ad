"""``resend``: one more mail, and only one, whatever else is delivered around it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage
from django.db import transaction
from kombu.exceptions import OperationalError

from celery_idempotent import (
    IdempotentEmailTask,
    IdempotentTask,
    InProgress,
    InterventionRefused,
    KeyFieldError,
    RecipientsDeferred,
    RecipientsRefused,
    Status,
)
from celery_idempotent.operations import decisions
from celery_idempotent.testing import race
from tests.support.mailserver import ScriptedSMTP
from tests.support.servers import free_port

app = Celery("sending-again", broker="memory://", backend="cache+memory://", set_as_current=False)
WHY = {"actor": "ann", "reason": "asked for"}


@app.task(bind=True, base=IdempotentEmailTask, key_fields=("n",), name="sent-again")
def mail(self: Any, n: int, text: str = "first") -> str:
    EmailMessage("Hi", text, to=["ann@example.com"]).send()
    return f"{text} by {self.request.id}"


@pytest.fixture
def server(memory_ledger: Any, tracked: None, server: ScriptedSMTP) -> Iterator[ScriptedSMTP]:
    """A mail server, and an empty ledger and queue."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare("celery", durable=True)
        channel.queue_purge("celery")
        yield server


def run(task_id: str, *args: Any) -> Any:
    """Do what a worker does with the message of ``task_id``."""
    return mail.apply(args, task_id=task_id)


def test_a_resend_is_one_more_mail_with_a_message_id_of_its_own(server: ScriptedSMTP) -> None:
    """Audited, and each message that is delivered again replays what it should."""
    first = run("first", 1).get()
    result = mail.resend(1, "second", **WHY)
    assert len(server.accepted) == 1, "the task does it, not the caller"
    second = run(result.id, 1, "second").get()
    assert second == f"second by {result.id}"
    assert len({mail.message_id for mail in server.accepted}) == 2
    assert run("first", 1).get() in (first, second)
    assert run(result.id, 1, "second").get() == second
    assert run("another", 1).get() == second
    assert len(server.accepted) == 2
    entry = mail.entry_for(1)
    assert entry is not None
    assert (entry.generation, entry.status, entry.audit[0].actor) == (2, Status.SENT, "ann")


def test_the_first_message_delivered_again_before_the_resend_ran(server: ScriptedSMTP) -> None:
    """It replays the first result at once, and leaves the new sending to its own task."""
    first = run("first", 1).get()
    result = mail.resend(1, "second", **WHY)
    assert run("first", 1).get() == first
    assert len(server.accepted) == 1
    run(result.id, 1, "second").get()
    assert len(server.accepted) == 2


def test_a_duplicate_of_the_event_beside_the_resend(server: ScriptedSMTP) -> None:
    """It waits for the new sending and then replays it: two mails in all, whoever is first."""
    run("first", 1).get()
    result = mail.resend(1, "second", **WHY)
    with pytest.raises(InProgress):
        run("duplicate", 1).get()
    second = run(result.id, 1, "second").get()
    assert run("duplicate", 1).get() == second
    assert len(server.accepted) == 2


def test_a_retry_of_the_resend_is_the_same_sending(server: ScriptedSMTP) -> None:
    """One Message-ID, one generation, one copy."""
    server.script["rcpt"] = ["250 ok", "450 later", "250 ok"]
    run("first", 1).get()
    result = mail.resend(1, "second", **WHY)
    with pytest.raises(RecipientsDeferred):
        run(result.id, 1, "second").get()
    run(result.id, 1, "second").get()
    assert len(server.accepted) == 2
    assert mail.entry_for(1).generation == 2  # type: ignore[union-attr]


def test_a_reopened_email_is_sent_once_whichever_message_comes(server: ScriptedSMTP) -> None:
    """Who sent it before does not send again; a duplicate that was answered may be the next call."""
    first = run("first", 1).get()
    assert run("duplicate", 1).get() == first
    decisions.decide("reopen", mail.key_for(1), **WHY)
    assert run("first", 1).get() == first
    assert len(server.accepted) == 1
    second = run("duplicate", 1).get()
    assert second == "first by duplicate"
    assert [run(task_id, 1).get() for task_id in ("first", "duplicate", "new")] == [second] * 3
    assert len(server.accepted) == 2


def test_a_windows_duplicates_do_not_send_what_is_reopened(
    server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are noted, as the documentation says."""
    monkeypatch.setattr(mail, "window", timedelta(days=1))
    first = run("first", 1).get()
    assert run("duplicate", 1).get() == first
    decisions.decide("reopen", mail.key_for(1), **WHY)
    assert run("duplicate", 1).get() == first
    assert len(server.accepted) == 1
    assert run("new", 1).get() == "first by new"
    assert len(server.accepted) == 2


@pytest.mark.django_db(transaction=True)
def test_a_resend_does_not_wait_for_a_commit(server: ScriptedSMTP) -> None:
    """A rollback takes neither the generation nor the message back; ``on_commit`` binds it to the commit."""
    run("first", 1).get()
    with app.connection_for_write() as connection:
        waiting = connection.default_channel
        for publish, messages in ((lambda ask: ask(), 1), (transaction.on_commit, 0)):
            try:
                with transaction.atomic():
                    publish(lambda: mail.resend(1, "second", **WHY))
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            assert mail.entry_for(1).generation == 2  # type: ignore[union-attr]
            assert waiting.queue_purge("celery") == messages


def test_two_resends_at_once(server: ScriptedSMTP) -> None:
    """One gets its task, the others learn that somebody was first; one more mail."""
    run("first", 1).get()

    def ask(number: int) -> Any:
        try:
            return mail.resend(1, actor=f"operator-{number}", reason="asked for")
        except InterventionRefused as error:
            return error

    answers = race(ask)
    (winner,) = [a for a in answers if not isinstance(a, InterventionRefused)]
    run(winner.id, 1).get()
    assert len(server.accepted) == 2
    assert mail.entry_for(1).generation == 2  # type: ignore[union-attr]


def test_a_resend_that_cannot_be_published(memory_ledger: Any) -> None:
    """The error is the caller's, and nothing has changed but the audit: it can be asked for again."""
    gone = Celery("gone-again", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    gone.conf.broker_transport_options = {"max_retries": 0}

    @gone.task(base=IdempotentTask, key_fields=("n",), name="unpublished-again", bind=True)
    def unpublished(self: Any, n: int) -> str:
        return str(self.request.id)

    unpublished.apply((1,), task_id="first")
    before = unpublished.entry_for(1)
    with pytest.raises(OperationalError):
        unpublished.resend(1, **WHY)
    entry = unpublished.entry_for(1)
    assert before is not None
    assert entry is not None
    assert (entry.status, entry.generation, entry.result) == (Status.SENT, 1, "first")
    assert [one.action for one in entry.audit] == ["resend", "resend taken back"]
    assert unpublished.apply((1,), task_id="duplicate").get() == "first"
    gone.conf.task_always_eager = True
    assert unpublished.resend(1, **WHY).get() != "first"


def test_what_cannot_be_sent_again(server: ScriptedSMTP) -> None:
    """Never sent, without a reason, without a key, or not finished: told, and nothing is published."""
    with pytest.raises(InterventionRefused, match="call the task"):
        mail.resend(1, **WHY)
    run("first", 1).get()
    with pytest.raises(InterventionRefused, match="reason is empty"):
        mail.resend(1, actor="ann", reason="")
    with pytest.raises(KeyFieldError):
        mail.resend(**WHY)
    with pytest.raises(TypeError, match="reason"):
        mail.resend(1, actor="ann")
    mail.resend(1, **WHY)
    with pytest.raises(InterventionRefused, match="not finished"):
        mail.resend(1, **WHY)


def test_a_failed_email_is_offered_to_everybody_anew(server: ScriptedSMTP) -> None:
    """A resend after a refusal for good reaches the recipient whose mailbox is there again."""
    server.script["rcpt"] = ["550 no such user", "250 ok"]
    with pytest.raises(RecipientsRefused):
        run("first", 1).get()
    assert mail.entry_for(1).status is Status.FAILED  # type: ignore[union-attr]
    run(mail.resend(1, **WHY).id, 1).get()
    assert len(server.accepted) == 1


def test_an_opaque_task_is_resent(memory_ledger: Any) -> None:
    """SMS and webhooks as well, eagerly too."""
    ran = []

    @app.task(base=IdempotentTask, key_fields=("n",), name="opaque-again")
    def opaque(n: int) -> int:
        ran.append(n)
        return len(ran)

    app.conf.task_always_eager = True
    try:
        assert opaque.delay(1).get() == 1
        assert opaque.resend(1, **WHY).get() == 2
        assert opaque.delay(1).get() == 2
    finally:
        app.conf.task_always_eager = False
