"""Recipient by recipient: what is recorded, what is shown, and what each one is offered."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask, RecipientsDeferred, RecipientsRefused, Status
from tests.support.mailserver import DROP, ScriptedSMTP

app = Celery("recipients", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="recipients", on_mismatch="ignore", max_retries=0)
def send(n: int, to: list[str], cc: Any = (), bcc: Any = (), body: str = "text", **more: Any) -> str:
    EmailMessage("Hi", body, to=to, cc=cc, bcc=bcc, **more).send()
    return "sent"


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger."""


def run(server: ScriptedSMTP, settings: Any, *args: Any, **kwargs: Any) -> Any:
    settings.EMAIL_PORT = server.port
    return send.apply((1, *args), kwargs)


def rows() -> list[tuple[str, str, int | None, str]]:
    return [(d.recipient.shown, d.status.value, d.code, d.detail) for d in send.entry_for(1, []).deliveries]


def by_name(answers: dict[str, str]) -> Any:
    """Return what answers RCPT by a word in the address."""
    return lambda line: next((answer for name, answer in answers.items() if name in line), "250 ok")


def test_each_recipient_has_its_own_code_and_text(settings: Any) -> None:
    """Django throws this away; the ledger keeps it one by one."""
    refusals = {"gone": "550 5.1.1 <gone@example.com> unknown", "busy": "450 4.2.1 busy"}
    with ScriptedSMTP(rcpt=by_name(refusals), dot="250 2.0.0 queued as 4711") as server:
        error = run(server, settings, ["ann@example.com", "gone@example.com", "busy@example.com"]).result
    assert sorted(rows()) == [
        ("a***@example.com", "accepted", 250, "2.0.0 queued as 4711"),
        ("b***@example.com", "deferred", 450, "4.2.1 busy"),
        ("g***@example.com", "refused", 550, "5.1.1 <g***@example.com> unknown"),
    ]
    assert isinstance(error, RecipientsDeferred)
    assert "b***@example.com (450 4.2.1 busy)" in str(error)


def test_refused_is_raised_once_all_else_is_settled(settings: Any) -> None:
    """First what a retry can mend, then what nothing can; the refused one is never offered again."""
    people = ["ann@example.com", "gone@example.com", "busy@example.com"]
    with ScriptedSMTP(rcpt=by_name({"gone": "550 no", "busy": "450 later"})) as first:
        assert isinstance(run(first, settings, people).result, RecipientsDeferred)
    with ScriptedSMTP() as second:
        assert isinstance(run(second, settings, people).result, RecipientsRefused)
        assert isinstance(run(second, settings, people).result, RecipientsRefused)
    assert [received.recipients for received in second.accepted] == [["busy@example.com"]]
    assert not any("gone" in command or "ann" in command for command in second.commands)


def test_autoretry_serves_the_deferred_alone(settings: Any) -> None:
    """`RecipientsDeferred` is an `SMTPException`, and its retry starts where the first run ended."""
    from smtplib import SMTPException

    @app.task(
        base=IdempotentEmailTask,
        key_fields=("n",),
        name="autoretry",
        autoretry_for=(SMTPException,),
        default_retry_delay=0,
    )
    def autoretry(n: int) -> None:
        EmailMessage("Hi", "text", to=["ann@example.com"], cc=["busy@example.com"]).send()

    answers = iter(["450 later", "450 later"])
    with ScriptedSMTP(rcpt=lambda line: next(answers, "250 ok") if "busy" in line else "250 ok") as server:
        settings.EMAIL_PORT = server.port
        assert autoretry.apply((1,)).state == "SUCCESS"
    assert [received.recipients for received in server.accepted] == [["ann@example.com"], ["busy@example.com"]]
    assert len({(r.message_id, r.headers["To"], r.headers["Cc"]) for r in server.accepted}) == 1


@pytest.mark.parametrize(
    ("replies", "wait"),
    [
        ({"ann": "450 4.7.1 Greylisted, try again in 120 seconds"}, 120),
        ({"ann": "450 4.7.1 come back in 00:02:00", "bob": "451 4.7.1 come back in 00:10:00"}, 600),
        ({"ann": "450 4.2.1 busy"}, None),
        ({"ann": "450 4.2.1 busy", "bob": "450 Greylisted"}, 300),
    ],
)
def test_the_error_says_when_a_retry_is_worth_while(
    settings: Any, replies: dict[str, str], wait: float | None
) -> None:
    """The longest that any server asks for: earlier, that one would refuse again."""
    with ScriptedSMTP(rcpt=by_name(replies)) as server:
        error = run(server, settings, ["ann@example.com", "bob@example.com"]).result
    assert error.retry_after == wait


@pytest.mark.parametrize("step", ["mail", "data", "dot"])
def test_greylisting_at_other_steps(settings: Any, step: str) -> None:
    """Some servers refuse MAIL, or DATA, or the payload."""
    with ScriptedSMTP(**{step: "451 4.7.1 Greylisted, try again in 120 seconds"}) as server:
        error = run(server, settings, ["ann@example.com"]).result
    assert (type(error), error.retry_after) == (RecipientsDeferred, 120)
    assert rows()[0][1:3] == ("deferred", 451)


def test_refusals_known_before_the_connection_ends_are_kept(settings: Any) -> None:
    """A disconnect at a later RCPT does not lose them: the refused one is not offered again."""
    people = ["gone@example.com", "ann@example.com", "bob@example.com"]
    with ScriptedSMTP(rcpt=by_name({"gone": "550 5.1.1 no", "bob": DROP})) as first:
        assert isinstance(run(first, settings, people).result, RecipientsDeferred)
    assert [status for _, status, _, _ in rows()] == ["refused", "deferred", "deferred"]
    with ScriptedSMTP() as second:
        assert isinstance(run(second, settings, people).result, RecipientsRefused)
    assert [received.recipients for received in second.accepted] == [["ann@example.com", "bob@example.com"]]


@pytest.mark.parametrize("form", ["masked", "plain", "digest"])
def test_a_blind_copy_stays_blind(settings: Any, caplog: Any, form: str) -> None:
    """In headers, in what the ledger shows, in logs and in errors, whatever the ledger may show."""
    caplog.set_level(logging.DEBUG)
    settings.CELERY_IDEMPOTENT |= {"RECIPIENTS": form}
    refusals = {"secret": "450 4.2.1 <secret.boss@example.com> busy", "gone": "550 <secret.gone@example.com>"}
    with ScriptedSMTP(rcpt=by_name(refusals)) as server:
        blind = ["secret.boss@example.com", "secret.gone@example.com", "secret.ok@example.com"]
        error = run(server, settings, ["ann@example.com"], [], blind).result
    assert b"secret" not in server.accepted[0].data
    assert "secret" not in str(error) + repr(error) + caplog.text
    if form != "plain":
        assert "secret" not in str(rows())
    if form == "digest":
        assert "example.com" not in str(rows())


def test_a_bcc_header_of_the_projects_own_does_not_go_out(settings: Any) -> None:
    """Django 5 would send it; Django 6 refuses it itself."""
    with ScriptedSMTP() as server:
        run(server, settings, ["ann@example.com"], headers={"Bcc": "secret@example.com"})
    assert not any(b"secret" in received.data for received in server.accepted)


def test_addresses_that_mean_one_mailbox_are_one_recipient(settings: Any) -> None:
    """Case, display name and the domain's script: offered once, headers as written."""
    to = ["Ann <Ann@B\u00fccher.example>", "ann@xn--bcher-kva.example", "bob@example.com"]
    with ScriptedSMTP() as server:
        assert run(server, settings, to, ["ANN@XN--BCHER-KVA.example"], ["Bob@Example.COM"]).get() == "sent"
    assert server.accepted[0].recipients == ["Ann@xn--bcher-kva.example", "bob@example.com"]
    assert [row[1] for row in rows()] == ["accepted", "accepted"]
    assert str(server.accepted[0].headers["To"]).count("ann@") == 1
    assert "ANN@XN--BCHER-KVA.example".lower() in str(server.accepted[0].headers["Cc"]).lower()


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
    with ScriptedSMTP(rcpt=by_name({"busy": "450 later"})) as first:
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


@pytest.mark.parametrize("offered", [True, False])
def test_8bitmime_is_declared_where_the_server_knows_it(settings: Any, offered: bool) -> None:
    """RFC 6152; a server that does not is sent what Django renders, as Django does."""
    with ScriptedSMTP(ehlo="250-test\r\n250 8BITMIME" if offered else "250 test") as server:
        run(server, settings, ["ann@example.com"], body="gr\u00fc\u00dfe")
    assert ("BODY=8BITMIME" in server.accepted[0].sender) is (offered and not server.accepted[0].data.isascii())


def test_a_refused_sender_is_no_refusal_of_the_recipients(settings: Any) -> None:
    """It is the project's own address that has to be mended; then the key is free."""
    with ScriptedSMTP(mail="550 5.7.1 <shop@example.com> may not") as server:
        error = run(server, settings, ["ann@example.com"]).result
    assert type(error).__name__ == "SMTPSenderRefused"
    assert (send.entry_for(1, []).status, rows()) == (Status.FAILED, [])
    with ScriptedSMTP() as server:
        assert run(server, settings, ["ann@example.com"]).get() == "sent"
