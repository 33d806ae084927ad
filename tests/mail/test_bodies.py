"""What bodies do with mail: loops, lists, other backends, connections kept open, errors of their own."""

from __future__ import annotations

import logging
import smtplib
import threading
import time
from collections.abc import Callable
from typing import Any

import django
import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from django.core import mail
from django.core.mail import EmailMessage, get_connection, send_mail, send_mass_mail
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP
from django.utils.log import AdminEmailHandler

from celery_idempotent import (
    IdempotentEmailTask,
    KeyFieldError,
    LedgerUnavailable,
    RecipientsRefused,
    Status,
)
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.mail.transaction import Transaction
from tests.support.mailserver import ScriptedSMTP

app = Celery("bodies", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger."""


def task(name: str, **options: Any) -> Callable[[Any], Any]:
    return app.task(base=IdempotentEmailTask, key_fields=("n",), name=name, shared=False, **options)


def message(*to: str, **more: Any) -> EmailMessage:
    return EmailMessage("Hi", "text", to=list(to or ["ann@example.com"]), **more)


def run(server: ScriptedSMTP, settings: Any, called: Any, *args: Any) -> Any:
    settings.EMAIL_PORT = server.port
    server.forget_calls()
    return called.apply((1, *args))


def test_a_body_that_tries_again_by_itself_sends_one_message(settings: Any) -> None:
    """Sent again before it was accepted it is the same message, also for the retry of the whole task."""

    @task("loop", bind=True, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
    def loop(self: Any, n: int) -> None:
        for _ in range(3):
            try:
                send_mail("Hi", "text", None, ["ann@example.com"])
                break
            except smtplib.SMTPException:
                continue
        if not self.request.retries:
            raise ValueError("after acceptance")

    with ScriptedSMTP(rcpt=["450 later", "250 ok"]) as server:
        assert run(server, settings, loop).state == "SUCCESS"
    assert len(server.accepted) == 1


@pytest.mark.parametrize("refusal", ["450 later", "550 no"])
def test_a_partly_accepted_message_that_the_body_sends_again(settings: Any, refusal: str) -> None:
    """P1: who has it is not offered it again, whatever became of the others."""

    @task(f"partly-{refusal[:3]}")
    def partly(n: int) -> None:
        for _ in range(2):
            try:
                message("ann@example.com", "bob@example.com").send()
            except smtplib.SMTPException:
                continue

    bob = iter([refusal, "250 ok"])
    with ScriptedSMTP(rcpt=lambda line: next(bob) if "bob" in line else "250 ok") as server:
        assert run(server, settings, partly).state == "SUCCESS"
    served = [address for received in server.accepted for address in received.recipients]
    assert served.count("ann@example.com") == 1
    assert served.count("bob@example.com") == (1 if refusal.startswith("4") else 0)


def test_two_equal_messages_in_one_body_are_two(settings: Any) -> None:
    """Once accepted, the next one is another; a rerun sends neither again."""

    @task("twice", bind=True, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
    def twice(self: Any, n: int) -> None:
        message().send()
        message().send()
        if not self.request.retries:
            raise ValueError("after acceptance")

    with ScriptedSMTP() as server:
        assert run(server, settings, twice).state == "SUCCESS"
    assert len(server.accepted) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "to secret \ud800"},
        {"body": "secret \ud800"},
        {"headers": {"X-Order": "secret \ud800"}},
        {"to": ["secret\ud800@example.com"]},
        {"from_email": "secret\ud800@example.com"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_text_that_is_no_unicode(settings: Any, changed: dict[str, Any]) -> None:
    """Bad input: the error says what to do, and does not carry the text; nothing was sent."""
    field = next(iter(changed))

    @task(f"surrogate-{field}")
    def surrogate(n: int) -> None:
        EmailMessage(**{"subject": "Hi", "body": "text", "to": ["ann@example.com"], **changed}).send()

    with ScriptedSMTP() as server:
        error = run(server, settings, surrogate).result
    assert type(error) is ValueError
    # Django 6 refuses such a sender itself, by name; what it quotes is masked.
    refused = field == "from_email" and "Invalid address 's***@example.com'" in str(error)
    assert refused or "lone surrogates" in str(error)
    assert "secret" not in repr(error)
    assert (server.accepted, surrogate.entry_for(1).deliveries) == ([], ())


def test_a_soft_time_limit_between_write_ahead_and_payload(settings: Any, monkeypatch: Any) -> None:
    """P2: nothing went out and the record says so; the next run sends it."""
    real, struck = Transaction._release, []

    def strike(self: Transaction, *args: Any) -> Any:
        if struck:
            return real(self, *args)
        struck.append(True)
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(Transaction, "_release", strike)

    @task("soft")
    def soft(n: int) -> None:
        message().send()

    with ScriptedSMTP() as server:
        assert run(server, settings, soft).state == "FAILURE"
        entry = soft.entry_for(1)
        assert (entry.status, entry.deliveries[0].status) == (Status.FAILED, DeliveryStatus.DEFERRED)
        assert run(server, settings, soft).state == "SUCCESS"
    assert len(server.accepted) == 1


def test_a_soft_time_limit_while_the_reply_is_awaited(settings: Any, monkeypatch: Any) -> None:
    """P1: the dot is out, so it is in doubt and stays so."""
    reply = smtplib.SMTP.getreply

    def struck(self: smtplib.SMTP) -> Any:
        code, text = reply(self)
        if text.startswith(b"queued"):
            raise SoftTimeLimitExceeded
        return code, text

    monkeypatch.setattr(smtplib.SMTP, "getreply", struck)

    @task("soft-reply")
    def soft(n: int) -> None:
        message().send()

    with ScriptedSMTP() as server:
        assert run(server, settings, soft).state == "FAILURE"
        assert soft.entry_for(1).status is Status.IN_DOUBT
        assert run(server, settings, soft).state == "FAILURE"
    assert len(server.accepted) == 1


def test_the_outcome_is_recorded_before_the_goodbye(settings: Any) -> None:
    """P5: a slow QUIT does not widen the moment of doubt."""
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0}

    @task("quit")
    def leave(n: int) -> None:
        message().send()

    with ScriptedSMTP() as server:
        server.hold("quit")
        thread = threading.Thread(target=run, args=(server, settings, leave))
        thread.start()
        server.reached("quit")
        entry = leave.entry_for(1)
        server.release("quit")
        thread.join(20)
    assert (entry.status, entry.deliveries[0].status) == (Status.CLAIMED, DeliveryStatus.ACCEPTED)


@pytest.mark.parametrize("swallow", [False, True])
def test_the_deadline_counts_from_before_the_write_ahead(
    memory_ledger: Any, settings: Any, monkeypatch: Any, swallow: bool
) -> None:
    """The store's deadline starts in the write: a slow ledger does not answer, and the task comes back.

    A body that swallows the error does not end as sent.
    """
    begin = memory_ledger.begin

    def slow(*args: Any) -> Any:
        entry = begin(*args)
        time.sleep(0.6)
        return entry

    @task(f"slow-write-ahead-{swallow}", send_timeout=0.5)
    def late(n: int) -> None:
        try:
            message().send()
        except Exception:
            if not swallow:
                raise

    with ScriptedSMTP() as server:
        with monkeypatch.context() as slowed:
            slowed.setattr(memory_ledger, "begin", slow)
            assert isinstance(run(server, settings, late).result, LedgerUnavailable), "a worker would come back"
        assert not server.accepted
        assert late.entry_for(1).deliveries[0].status is DeliveryStatus.DEFERRED
    assert late.entry_for(1).status is Status.CLAIMED


def test_a_backend_of_another_kind_gets_only_who_is_owed(settings: Any) -> None:
    """Such a backend reads recipients from the message, so it gets a reduced one."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    people = ["ann@example.com"]

    @task("growing")
    def growing(n: int, fail: bool) -> None:
        EmailMessage("Hi", "text", to=people[:1], cc=people[1:]).send()
        if fail:
            raise ValueError

    growing.apply((1, True))
    people.append("bob@example.com")
    growing.apply((1, False))
    assert [sent.recipients() for sent in mail.outbox] == [["ann@example.com"], ["bob@example.com"]]


class Redirecting(DjangoSMTP):
    """Sends everything to one address, as on a staging system."""

    def send_messages(self, email_messages: Any) -> int:
        for each in email_messages:
            each.to = ["staging@example.com"]
        return super().send_messages(email_messages)


def test_a_wrapped_backends_own_way_of_sending_is_respected(settings: Any) -> None:
    """A subclass of Django's that overrides `send_messages` is one opaque step, not a conversation of ours."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.Redirecting"}

    @task("redirected")
    def redirected(n: int) -> None:
        message("customer@example.com").send()

    with ScriptedSMTP() as server:
        run(server, settings, redirected)
    assert [received.recipients for received in server.accepted] == [["staging@example.com"]]


def test_a_message_id_of_the_projects_own_is_the_one_on_record(settings: Any) -> None:
    """What went out is what the ledger can be searched for."""

    @task("own-id")
    def own(n: int) -> None:
        message(headers={"message-id": "<mine@shop>"}).send()

    with ScriptedSMTP() as server:
        run(server, settings, own)
    assert server.accepted[0].message_id == own.entry_for(1).deliveries[0].message_id == "<mine@shop>"


def test_a_log_handlers_mail_to_the_admins_is_no_part_of_the_email(settings: Any) -> None:
    """It reports on the task; that it is refused does not fail what the customer has got."""
    ops = "ops@example.com"
    settings.ADMINS = [ops] if django.VERSION >= (6,) else [("ops", ops)]
    logger, handler = logging.getLogger("shop.bodies"), AdminEmailHandler()
    logger.addHandler(handler)

    @task("reporting-to-admins")
    def reporting(n: int) -> str:
        message().send()
        logger.error("the template is missing, used the fallback")
        return "ok"

    try:
        with ScriptedSMTP(rcpt=lambda line: "550 no" if "ops" in line else "250 ok") as server:
            assert run(server, settings, reporting).get() == "ok"
    finally:
        logger.removeHandler(handler)
    assert len(reporting.entry_for(1).deliveries) == 1
    assert server.count("rcpt") == 2


def test_one_refused_message_of_many_does_not_stop_the_others(settings: Any) -> None:
    """All are offered, then the error is raised; what a retry can mend comes first."""

    @task("mass")
    def mass(n: int) -> None:
        names = ("gone", "busy", "bob")
        send_mass_mail([("Hi", "text", None, [f"{name}@example.com"]) for name in names])

    def answer(line: str) -> str:
        return "550 no" if "gone" in line else "450 later" if "busy" in line else "250 ok"

    with ScriptedSMTP(rcpt=answer) as server:
        assert type(run(server, settings, mass).result).__name__ == "RecipientsDeferred"
    assert [received.recipients for received in server.accepted] == [["bob@example.com"]]
    with ScriptedSMTP() as server:
        assert type(run(server, settings, mass).result).__name__ == "RecipientsRefused"
    assert [received.recipients for received in server.accepted] == [["busy@example.com"]]


def test_a_connection_kept_open_outlives_a_refusal(settings: Any) -> None:
    """It was dropped, so the next message opens another one."""

    @task("kept-open")
    def kept(n: int) -> None:
        with get_connection() as connection:
            for to in ("a@example.com", "b@example.com"):
                try:
                    message(to, connection=connection).send()
                except RecipientsRefused:
                    continue

    with ScriptedSMTP(dot=["550 spam", "250 ok"]) as server:
        assert run(server, settings, kept).state == "SUCCESS"
    assert [received.recipients for received in server.accepted] == [["b@example.com"]]


def test_fail_silently_does_not_silence_a_task(settings: Any) -> None:
    """Where there is a task to try again, the error reaches Celery's autoretry like any other."""

    @task("silent", autoretry_for=(smtplib.SMTPException,), retry_kwargs={"countdown": 0})
    def silent(n: int) -> None:
        message().send(fail_silently=True)

    with ScriptedSMTP(rcpt=["450 later", "250 ok"]) as server:
        assert run(server, settings, silent).state == "SUCCESS"
    assert len(server.accepted) == 1


@pytest.mark.parametrize(
    "to", ["secret.person@example.com", "secret.person@example.com\nX: y", "secret.person@exam ple.com, x"]
)
def test_errors_quote_no_address(settings: Any, to: str) -> None:
    """P7: exceptions are stored as results, whoever raised them."""

    @task(f"leaking-{len(to)}")
    def leaking(n: int, to: str) -> None:
        message(to).send()

    with ScriptedSMTP(rcpt="421 <secret.person@example.com> is blocked, closing") as server:
        result = run(server, settings, leaking, to)
    assert result.state == "FAILURE"
    assert "secret.person@" not in repr(result.result) + str(result.traceback)


@pytest.mark.parametrize("name", ["", "x" * 101, "a\x00b"])
def test_a_parts_name_that_no_store_can_keep(settings: Any, name: str) -> None:
    """Refused before anything goes out."""

    @task(f"part-{len(name)}")
    def part(n: int) -> None:
        named = message()
        named.idempotency_part = name
        named.send()

    with ScriptedSMTP() as server:
        assert isinstance(run(server, settings, part).result, KeyFieldError)
    assert server.connections == 0
