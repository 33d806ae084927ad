"""Canaries: each private part of another package that `celery_idempotent.compat` reads is still there."""

from __future__ import annotations

import io
import smtplib
import unittest
from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP
from django.db import connection
from django.test import SimpleTestCase, TestCase

from celery_idempotent.compat import (
    get_reply_stream,
    get_smtp_settings,
    is_forbidden_by_testcase,
    is_in_testcase,
    sends_as_django,
    set_reply_stream,
    take_connections,
)
from tests.support.mailserver import ScriptedSMTP


def seen_in(base: type[unittest.TestCase], look: Callable[[], bool]) -> bool:
    """Return what ``look`` tells inside a test of a class with the base ``base``."""
    seen = []

    class Test(base):  # type: ignore[misc, valid-type]
        def runTest(self) -> None:
            seen.append(look())

    result = unittest.TestResult()
    unittest.TestSuite([Test()]).run(result)
    assert result.wasSuccessful(), result.errors
    return seen[0]


@pytest.mark.django_db(transaction=True)
def test_django_marks_the_transaction_of_a_test_case() -> None:
    """``_from_testcase``: set in a `TestCase`, and nowhere else."""
    assert not is_in_testcase(connection)
    assert seen_in(TestCase, lambda: is_in_testcase(connection))
    assert not is_in_testcase(connection)


def test_django_forbids_queries_by_a_database_failure(django_db_blocker: Any) -> None:
    """``_DatabaseFailure``: in place of ``connect`` in a `SimpleTestCase`, and nowhere else."""
    with django_db_blocker.unblock():
        assert not is_forbidden_by_testcase(connection)
        assert seen_in(SimpleTestCase, lambda: is_forbidden_by_testcase(connection))
        assert not is_forbidden_by_testcase(connection)


def test_smtplib_reads_replies_from_its_file() -> None:
    """``SMTP.file``: a stream in its place is read, and `close` takes it away."""
    smtp = smtplib.SMTP()
    set_reply_stream(smtp, io.BytesIO(b"250-first\r\n250 second\r\n"))
    assert smtp.getreply() == (250, b"first\nsecond")
    assert get_reply_stream(smtp) is not None
    smtp.close()
    assert get_reply_stream(smtp) is None


def test_django_keeps_a_connection_that_was_not_let_in(server: ScriptedSMTP) -> None:
    """``_partial_connection``: it is open, and nobody else would close it."""
    backend = DjangoSMTP(host="localhost", port=server.port, use_tls=True)
    with pytest.raises(smtplib.SMTPNotSupportedError):
        backend.open()
    for smtp in (taken := list(take_connections(backend))):
        assert smtp.sock is not None
        smtp.close()
    assert len(taken) == 1
    assert list(take_connections(backend)) == []


def test_djangos_backend_has_no_other_state_than_its_settings(server: ScriptedSMTP) -> None:
    """Else connections would not be shared, or between accounts: a new attribute of Django's shows here."""
    backend = DjangoSMTP(host="localhost", port=server.port, username="ann", password="secret")
    settings = get_smtp_settings(backend)
    assert settings.items() >= {"host": "localhost", "port": server.port, "username": "ann"}.items()
    assert all(isinstance(value, str | int | float | None) for value in settings.values())
    open_one = DjangoSMTP(host="localhost", port=server.port, username="ann", password="")
    open_one.open()
    assert get_smtp_settings(open_one).keys() == settings.keys()
    open_one.close()


def test_django_sends_each_message_by_one_step(server: ScriptedSMTP) -> None:
    """``_send``: who overrides it sends in another way, which ours would not call."""
    sent = []

    class Own(DjangoSMTP):
        def _send(self, message: EmailMessage) -> bool:
            sent.append(message)
            return True

    assert sends_as_django(DjangoSMTP)
    assert not sends_as_django(Own)
    message = EmailMessage("Hi", "text", to=["ann@example.com"])
    assert Own(host="localhost", port=server.port).send_messages([message]) == 1
    assert sent == [message]
