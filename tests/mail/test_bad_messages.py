"""Messages that cannot be sent as they are: the error says why and quotes nobody, and nothing goes out."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.mail import EmailMessage

from celery_idempotent import KeyFieldError
from tests.mail.bodies import message, run, task
from tests.support.mailserver import ScriptedSMTP


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
