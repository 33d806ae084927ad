"""Addresses: those that mean one mailbox, and those that cannot be read or written."""

from __future__ import annotations

from typing import Any

import pytest

from celery_idempotent import RecipientsDeferred, RecipientsRefused
from tests.mail.addressing import rows, run
from tests.support.mailserver import ScriptedSMTP, by_name


def test_addresses_that_mean_one_mailbox_are_one_recipient(settings: Any) -> None:
    """Case, display name and the domain's script: offered once, headers as written."""
    to = ["Ann <Ann@B\u00fccher.example>", "ann@xn--bcher-kva.example", "bob@example.com"]
    with ScriptedSMTP() as server:
        assert run(server, settings, to, ["ANN@XN--BCHER-KVA.example"], ["Bob@Example.COM"]).get() == "sent"
    assert server.accepted[0].recipients == ["Ann@xn--bcher-kva.example", "bob@example.com"]
    assert [row[1] for row in rows()] == ["accepted", "accepted"]
    assert str(server.accepted[0].headers["To"]).count("ann@") == 1
    assert "ANN@XN--BCHER-KVA.example".lower() in str(server.accepted[0].headers["Cc"]).lower()


UNREADABLE = ["gone@example.com.", "Gone <gone@example.com.>", "gone@[192.0.2", "gone@b@example.com", "Gone <>"]


@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
@pytest.mark.parametrize("address", UNREADABLE)
def test_an_address_that_cannot_be_read_is_refused_alone(settings: Any, field: str, address: str) -> None:
    """Django gives the whole message up; here the others are served, and it is never offered."""
    people = {"to": ["ann@example.com"], "cc": ["bob@example.com"], "bcc": ["boss@example.com"]}
    people[field] = [address, *people[field]]
    with ScriptedSMTP() as server:
        errors = [run(server, settings, **people).result for _ in range(2)]
    for error in errors:
        assert isinstance(error, RecipientsRefused)
        assert "(553 5.1.3 not offered: no mailbox can be read from the address" in str(error)
        assert "gone" not in str(error).lower()
    assert sorted((status, code) for _, status, code, _ in rows()) == [
        *[("accepted", 250)] * 3,
        ("refused", 553),
    ]
    served = [received.recipients for received in server.accepted]
    assert served == [["ann@example.com", "bob@example.com", "boss@example.com"]]


def test_what_may_pass_comes_before_an_address_that_cannot_be_read(settings: Any) -> None:
    """`RecipientsRefused` is raised once everything else is settled, as for any other refusal."""
    people = ["ann@example.com", "gone@example.com.", "busy@example.com"]
    with ScriptedSMTP(rcpt=by_name(busy="450 later")) as first:
        assert isinstance(run(first, settings, people).result, RecipientsDeferred)
    with ScriptedSMTP() as second:
        assert isinstance(run(second, settings, people).result, RecipientsRefused)
    assert [received.recipients for received in second.accepted] == [["busy@example.com"]]


def test_nobody_who_can_be_reached_needs_no_server(settings: Any) -> None:
    """There is nothing to ask it: the outcome is on record without a connection."""
    with ScriptedSMTP() as server:
        assert isinstance(run(server, settings, ["gone@example.com."]).result, RecipientsRefused)
    assert server.commands == []
    assert [row[1:3] for row in rows()] == [("refused", 553)]


@pytest.mark.parametrize("field", ["to", "cc"])
@pytest.mark.parametrize("address", ["gone@\nexample.com", f"gone@{'x' * 70}\u00e9.example"])
@pytest.mark.parametrize("smtp", [True, False])
def test_an_address_that_no_header_can_hold_is_named(
    settings: Any, field: str, address: str, smtp: bool
) -> None:
    """Bad input: the mail cannot be written for anybody, and the error names task, field and fix."""
    if not smtp:
        settings.CELERY_IDEMPOTENT |= {"EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    people = {"to": ["ann@example.com"], "cc": ["bob@example.com"]}
    people[field] = [*people[field], address]
    with ScriptedSMTP() as server:
        error = run(server, settings, **people).result
    assert isinstance(error, ValueError)
    assert str(error).startswith("recipients: the address g***@")
    assert f"in '{field}' cannot be written into the headers. Correct it" in str(error)
    assert "gone" not in repr(error)
    assert (server.commands, rows()) == ([], [])
