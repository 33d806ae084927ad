"""What replies mean, and what of it travels with the error."""

from __future__ import annotations

import pickle

import pytest
from celery import Celery

from celery_idempotent import RecipientsDeferred, RecipientsRefused
from celery_idempotent.mail.smtp.reply_codes import Kind, ServerReply
from celery_idempotent.mail.smtp.requested_waits import read_wait

MEANING = [
    (250, "ok", Kind.ACCEPTED),
    (251, "2.1.5 will forward", Kind.ACCEPTED),
    (200, "odd", Kind.UNKNOWN),
    (220, "a greeting", Kind.UNKNOWN),
    (221, "bye", Kind.UNKNOWN),
    (354, "go on", Kind.UNKNOWN),
    (-1, "", Kind.UNKNOWN),
    (25, "", Kind.UNKNOWN),
    (2500, "", Kind.UNKNOWN),
    (421, "4.3.2 closing", Kind.TEMPORARY),
    (450, "4.2.1 busy", Kind.TEMPORARY),
    (452, "4.3.1 storage", Kind.TEMPORARY),
    (454, "5.7.0 contradicts itself", Kind.TEMPORARY),
    (550, "5.1.1 no such user", Kind.PERMANENT),
    (550, "4.7.1 contradicts itself", Kind.PERMANENT),
    (552, "5.2.2 mailbox full", Kind.PERMANENT),
    (452, "4.5.3 too many recipients", Kind.LIMIT),
    (550, "5.5.3 too many", Kind.LIMIT),
    (550, "15.5.3 not an enhanced code", Kind.PERMANENT),
    (451, "Too Many Recipients", Kind.LIMIT),
    (554, "Transaction failed: Recipient count exceeds 50.", Kind.LIMIT),
    (452, "4.5.3 Your message has more than 100 recipients", Kind.LIMIT),
]


@pytest.mark.parametrize(("code", "text", "kind"), MEANING)
def test_the_table(code: int, text: str, kind: Kind) -> None:
    """RFC 5321 §4.2 and RFC 3463; the reply code counts where the two contradict each other."""
    assert Kind.look_up(code, text) is kind


@pytest.mark.parametrize(("code", "text"), [(452, ""), (452, "no room"), (552, ""), (552, "exceeded")])
def test_a_bare_452_or_552_at_rcpt_is_a_limit(code: int, text: str) -> None:
    """RFC 5321 §4.5.3.1.10; after the payload the same codes speak of the message."""
    assert Kind.look_up(code, text, at_rcpt=True) is Kind.LIMIT
    assert Kind.look_up(code, text) is (Kind.TEMPORARY if code == 452 else Kind.PERMANENT)


def test_too_large_is_about_the_message() -> None:
    """RFC 1870: a refusal of MAIL for its size, not for its sender."""
    assert ServerReply(552, "message size exceeds the limit").refuses_size()
    assert ServerReply(552, "5.3.4 message size exceeds fixed limit").refuses_size()
    assert ServerReply(550, "5.2.3 too long").refuses_size()
    assert not ServerReply(552, "5.2.2 quota").refuses_size()
    assert not ServerReply(550, "5.7.1 sender refused").refuses_size()


WAITS = [
    (450, "4.7.1 Greylisted, try again in 300 seconds", 300),
    (451, "Greylisted for 5 minutes", 300),
    (451, "4.7.1 Greylisting in action, please come back in 00:05:10", 310),
    (450, "you must wait 1 hour 30 minutes before trying again", 3600.0),
    (450, "retry in 90s", 90),
    (450, "delayed for 2 min.", 120),
    (450, "try again in 99999 hours", 3600.0),
    (450, "try again in 0 seconds", 1),
    (450, "4.2.0 Recipient address rejected: Greylisted, see http://example.com/300.html", 300.0),
    (421, "4.7.28 unusual rate of mail", 300.0),
    (450, "4.2.1 mailbox busy", None),
    (450, "try again later (5 mailboxes)", None),
    (450, "retry with 5 months' patience", None),
    (550, "5.7.1 no such luck", None),
    (550, "5.7.1 try again in 300 seconds", 300.0),  # asked only for what counts as deferred
    (None, "try again in 300 seconds", None),
]


@pytest.mark.parametrize(("code", "text", "seconds"), WAITS)
def test_how_long_a_server_wants_us_to_wait(code: int | None, text: str, seconds: float | None) -> None:
    """As long as it says, within bounds; five minutes for greylisting that does not say (RFC 6647)."""
    assert read_wait(code, text) == seconds


@pytest.mark.parametrize(
    "error", [RecipientsDeferred("a", 300.0), RecipientsDeferred("a"), RecipientsRefused("a")]
)
def test_the_errors_pickle_and_cross_a_result_backend(error: Exception) -> None:
    """With their text and their wait."""
    backend = Celery(backend="cache+memory://", set_as_current=False).backend
    for crossed in (
        pickle.loads(pickle.dumps(error)),
        backend.exception_to_python(backend.prepare_exception(error, "json")),
    ):
        assert type(crossed).__name__ == type(error).__name__
        assert str(crossed) == "a"
        assert getattr(crossed, "retry_after", None) == getattr(error, "retry_after", None)
