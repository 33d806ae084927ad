"""Private parts of other packages that this one reads, each by one function.

`tests/house/test_compat.py` has a test for each, which fails where a new version of the package has it no more.
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP
from django.db.backends.base.base import BaseDatabaseWrapper

_STATE_OF_SMTP_BACKEND = frozenset({"connection", "_partial_connection", "_lock", "ssl_context"})


def get_reply_stream(smtp: smtplib.SMTP) -> object:
    """Return the stream from which ``smtp`` reads its replies; None before the first and after the last one.

    Reads ``SMTP.file``, which `smtplib` does not document. Seen in Python 3.11 and 3.12.
    """
    return smtp.file


def set_reply_stream(smtp: smtplib.SMTP, stream: object) -> None:
    """Have ``smtp`` read its replies from ``stream``, by its ``readline`` and ``close``.

    Writes ``SMTP.file``, as `get_reply_stream` reads it.
    """
    smtp.file = stream  # type: ignore[assignment]


def take_connections(backend: DjangoSMTP) -> Iterator[smtplib.SMTP]:
    """Take the connections out of ``backend``: the ready one, and one that got no further than its greeting.

    Reads and writes ``EmailBackend._partial_connection``. Seen in Django 5.2 and 6.1; a version without it
    keeps a connection that was refused in ``connection``.
    """
    for name in ("connection", "_partial_connection"):
        smtp: smtplib.SMTP | None = getattr(backend, name, None)
        if smtp is not None:
            yield smtp
            setattr(backend, name, None)


def get_smtp_settings(backend: DjangoSMTP) -> dict[str, object]:
    """Return what ``backend`` was made with: its attributes without its connection, lock and TLS context.

    Tells attributes of `django.core.mail.backends.smtp.EmailBackend` apart by name: ``_lock``,
    ``_partial_connection``. Seen in Django 5.2 and 6.1. One more would keep connections from being shared.
    """
    return {name: value for name, value in vars(backend).items() if name not in _STATE_OF_SMTP_BACKEND}


def sends_as_django(kind: type[DjangoSMTP]) -> bool:
    """Tell whether ``kind`` of backend sends as Django's does: it overrides neither step of sending.

    Reads ``EmailBackend._send``. Seen in Django 5.2 and 6.1.
    """
    return all(getattr(kind, name) is getattr(DjangoSMTP, name) for name in ("send_messages", "_send"))


def is_in_testcase(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether Django's `TestCase` has wrapped a test in a transaction on ``connection``.

    Reads ``_from_testcase``, which `django.test.TestCase` sets on its ``atomic()`` blocks. Django itself reads
    it to tell a test's transaction from one of the code under test (``durable=True``).
    """
    return any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


def is_forbidden_by_testcase(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether a test case of Django forbids queries on ``connection``: it is none of its ``databases``.

    Reads the class name ``_DatabaseFailure`` of what `django.test.SimpleTestCase` puts in place of ``connect``.
    """
    return type(connection.connect).__name__ == "_DatabaseFailure"
