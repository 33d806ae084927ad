"""One connection for many messages: which of them share it, and which have one of their own."""

from __future__ import annotations

from typing import Any

from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.smtp.connections import pool
from celery_idempotent.tasks.worker import say_goodbye
from tests.mail.connecting import app, send
from tests.support.mailserver import ScriptedSMTP


def test_messages_share_a_connection(server: ScriptedSMTP) -> None:
    """With RSET in between, which also tells whether it is still alive; one EHLO for all."""
    for n in range(5):
        assert send.apply((n,)).get() == "sent"
    assert (server.connections, server.count("ehlo"), server.count("rset")) == (1, 1, 4)
    assert len(server.accepted) == 5


def test_off(server: ScriptedSMTP, settings: Any) -> None:
    """``CONNECTION_IDLE`` 0: a connection a message, each with its goodbye."""
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0}
    for n in range(3):
        assert send.apply((n,)).get() == "sent"
    assert (server.connections, server.count("quit"), server.count("rset")) == (3, 3, 0)


def test_a_body_of_several_messages_uses_one(server: ScriptedSMTP) -> None:
    """Each is handed over, and recorded, on its own."""

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="several-on-one")
    def several(n: int) -> None:
        for to in "abc":
            EmailMessage("Hi", "text", to=[f"{to}@example.com"]).send()

    several.apply((1,))
    assert server.connections == 1
    assert [d.status for d in several.entry_for(1).deliveries] == [DeliveryStatus.ACCEPTED] * 3


def test_a_callers_own_connection_is_the_callers(server: ScriptedSMTP) -> None:
    """``open`` opens one, the messages between use it, ``close`` closes it; what is kept stays out of it."""

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="callers")
    def callers(n: int) -> None:
        with get_connection() as connection:
            for to in ("a@example.com", "b@example.com"):
                EmailMessage("Hi", to, to=[to], connection=connection).send()

    assert send.apply((1,)).get() == "sent"
    callers.apply((1,))
    assert (server.connections, server.count("quit"), server.count("rset")) == (2, 1, 0)
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 2


def test_other_credentials_are_another_connection(server: ScriptedSMTP, settings: Any) -> None:
    """Also another option of the backend, whichever it is."""
    assert send.apply((1,)).get() == "sent"
    settings.EMAIL_HOST_USER = "somebody"
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 2


class WithState(DjangoSMTP):
    """A backend with something about it that cannot be compared."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tenant = object()


def test_a_backend_with_state_of_its_own_keeps_nothing(server: ScriptedSMTP, settings: Any) -> None:
    """Its connections might differ in ways that do not show."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.WithState"}
    for n in range(2):
        assert send.apply((n,)).get() == "sent"
    assert server.connections == 2


class Silent(DjangoSMTP):
    """A backend that fails silently, whatever it is told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fail_silently = True


def test_a_backend_that_fails_silently_does_not_hide_it(settings: Any) -> None:
    """No connection is no mail, and a retry may mend it."""
    settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": f"{__name__}.Silent"}
    settings.EMAIL_PORT = 1
    assert type(send.apply((1,)).result).__name__ == "SMTPServerDisconnected"


def test_the_worker_says_goodbye(server: ScriptedSMTP) -> None:
    """At its end, on every connection that it has kept."""
    assert send.apply((1,)).get() == "sent"
    say_goodbye()
    server.reached("quit")
    assert not pool.idle()
    assert send.apply((2,)).get() == "sent"
    assert server.connections == 2


def test_mail_outside_of_tasks_keeps_nothing(server: ScriptedSMTP) -> None:
    """There Django's own backend does what it does."""
    EmailMessage("Hi", "text", to=["ann@example.com"]).send()
    assert server.count("quit") == 1
    assert not pool.idle()
