"""What a server announces is used as its RFC says: SIZE, 8BITMIME and SMTPUTF8."""

from __future__ import annotations

from typing import Any

import django
import pytest

from celery_idempotent import RecipientsRefused
from tests.mail.addressing import rows, run
from tests.support.mailserver import ScriptedSMTP

SIZED = "250-test\r\n250-SIZE {}\r\n250 8BITMIME"


def test_a_message_over_the_servers_size_is_refused_before_data(settings: Any) -> None:
    """RFC 1870: for good, without sending it, and each recipient is told why."""
    with ScriptedSMTP(ehlo=SIZED.format(2000)) as server:
        assert isinstance(run(server, settings, ["ann@example.com"], body="x" * 3000).result, RecipientsRefused)
    assert not any(command.lower().startswith(("mail", "data")) for command in server.commands)
    assert rows()[0][1:3] == ("refused", 552)
    assert "the server takes 2000" in rows()[0][3]


@pytest.mark.parametrize("size", ["0", "", "junk", "9" * 40])
def test_a_size_that_says_nothing(settings: Any, size: str) -> None:
    """0 is "no fixed limit"; nonsense is none either."""
    with ScriptedSMTP(ehlo=SIZED.format(size)) as server:
        assert run(server, settings, ["ann@example.com"]).get() == "sent"


@pytest.mark.parametrize("reply", ["552 5.3.4 Message size exceeds fixed limit", "552 too big"])
def test_mail_refused_for_its_size_is_refused_for_good(settings: Any, reply: str) -> None:
    """The server judged by the SIZE that MAIL declares."""
    with ScriptedSMTP(mail=reply) as server:
        assert isinstance(run(server, settings, ["ann@example.com"]).result, RecipientsRefused)
    assert rows()[0][1] == "refused"


def test_the_size_declared_is_the_size_sent(settings: Any) -> None:
    """Without dot-stuffing, as RFC 1870 counts."""
    with ScriptedSMTP() as server:
        run(server, settings, ["ann@example.com"], body=".dots\n..more\n" * 100)
    declared = next(c for c in server.commands if c.lower().startswith("mail"))
    assert f"size={len(server.accepted[0].data)}" in declared


@pytest.mark.parametrize("offered", [True, False])
def test_8bitmime_is_declared_where_the_server_knows_it(settings: Any, offered: bool) -> None:
    """RFC 6152; a server that does not is sent what Django renders, as Django does."""
    with ScriptedSMTP(ehlo="250-test\r\n250 8BITMIME" if offered else "250 test") as server:
        run(server, settings, ["ann@example.com"], body="gr\u00fc\u00dfe")
    eight_bits = not server.accepted[0].data.isascii()
    assert eight_bits or django.VERSION >= (6,), "there would be nothing to declare"
    assert ("BODY=8BITMIME" in server.accepted[0].sender) is (offered and eight_bits)


EAI = "250-test\r\n250-SMTPUTF8\r\n250 8BITMIME"


def test_smtputf8(settings: Any) -> None:
    """RFC 6531: a local part beyond ASCII goes out as it is, where the server takes it."""
    with ScriptedSMTP(ehlo=EAI) as server:
        assert run(server, settings, ["j\u00f6rg@example.com", "ann@example.com"]).get() == "sent"
    assert server.accepted[0].recipients == ["j\u00f6rg@example.com", "ann@example.com"]
    assert "SMTPUTF8 BODY=8BITMIME" in server.accepted[0].sender


def test_a_server_without_smtputf8_gets_the_others(settings: Any) -> None:
    """Who cannot be written is refused for good, with the code of RFC 6531."""
    with ScriptedSMTP() as server:
        error = run(server, settings, ["ann@example.com"], [], ["j\u00f6rg@example.com"]).result
    assert isinstance(error, RecipientsRefused)
    assert sorted((status, code) for _, status, code, _ in rows()) == [("accepted", 250), ("refused", 553)]
    assert server.accepted[0].recipients == ["ann@example.com"]
