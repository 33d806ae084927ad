"""Lists that are too long for the server, or take it too long: served in parts, and nobody twice."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from celery_idempotent import DeliveryInDoubt
from celery_idempotent.ledger.policy import Verdict
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.smtp.transaction import Transaction
from tests.mail.walking import Case, assert_as_the_replies_say, walk, walked
from tests.support.mailserver import (
    DEFAULTS,
    DROP_AFTER_ACCEPT,
    ScriptedSMTP,
)
from tests.support.tiers import sized


class Limited:
    """A server that takes ``limit`` recipients in a transaction."""

    def __init__(self, limit: int, refusal: str) -> None:
        self.limit, self.refusal, self.named, self.transactions = limit, refusal, 0, 0

    def mail(self, line: str) -> str:
        self.named, self.transactions = 0, self.transactions + 1
        return "250 ok"

    def rcpt(self, line: str) -> str:
        self.named += 1
        return "250 ok" if self.named <= self.limit else self.refusal

    def dot(self, line: str) -> str:
        return "250 ok" if self.named <= self.limit else self.refusal


@pytest.mark.parametrize(
    "refusal",
    [
        "452 4.5.3 too many recipients",
        "452 too many",
        "452",
        "552 too many recipients",
        "550 5.5.3 no more",
        "451 Too many recipients in this message",
    ],
)
@pytest.mark.parametrize("where", ["rcpt", "data", "dot"])
def test_a_limit_of_recipients_splits_the_list(settings: Any, refusal: str, where: str) -> None:
    """Everybody is served in one run of the task, a few at a time, and nobody is left deferred or refused."""
    if where != "rcpt" and ("recipients" not in refusal and ".5.3" not in refusal):
        refusal += " (too many recipients)"
    server = Limited(7, refusal)
    script: dict[str, Any] = {"mail": server.mail, "rcpt": server.rcpt}
    if where != "rcpt":
        script["rcpt"] = lambda line: server.rcpt(line) and "250 ok"
        script[where] = lambda line: DEFAULTS[where] if server.named <= server.limit else refusal
    case = Case(50, script, retry=False)
    result, observer, entry = walk(case, settings)
    assert_as_the_replies_say(case, result, observer, entry)
    assert observer.connections == 1
    assert server.transactions <= 20
    assert max(len(received.recipients) for received in observer.accepted) <= 7


def test_many_more_than_the_server_takes_at_once(settings: Any) -> None:
    """Split by the server's limit on one connection, written ahead for each part, nobody served twice."""
    limit = sized(test=200, all=1_000)
    server = Limited(limit, "452 4.5.3 too many recipients")
    case = Case(5 * limit, {"mail": server.mail, "rcpt": server.rcpt}, retry=False)
    result, observer, entry = walk(case, settings)
    assert_as_the_replies_say(case, result, observer, entry)
    assert (observer.connections, server.transactions) == (1, 5)
    assert [len(received.recipients) for received in observer.accepted] == [limit] * 5
    assert [(a.recipients, a.outcome) for a in entry.history] == [(limit, DeliveryStatus.ACCEPTED)] * 5


def test_a_limit_announced_beforehand(settings: Any) -> None:
    """RFC 9422: not one RCPT too many."""
    server = Limited(7, "550 5.1.1 you were told")
    ehlo = "250-test\r\n250-LIMITS MAILMAX=99 RCPTMAX=7\r\n250 SIZE 0"
    case = Case(50, {"ehlo": ehlo, "mail": server.mail, "rcpt": server.rcpt}, retry=False)
    result, observer, entry = walk(case, settings)
    assert_as_the_replies_say(case, result, observer, entry)
    assert server.transactions == 8


def test_a_slow_server_is_handed_over_what_it_has_taken(settings: Any, monkeypatch: Any) -> None:
    """Naming recipients takes half of the send timeout at most; the others are served after those."""

    def slow(line: str) -> str:
        threading.Event().wait(0.05)
        return "250 ok"

    case = Case(50, {"rcpt": slow}, retry=False)
    monkeypatch.setattr(walked, "send_timeout", 2.0)
    with ScriptedSMTP(**case.script) as server:
        settings.EMAIL_PORT = server.port
        people = [f"r{n}@example.com" for n in range(50)]
        result = walked.apply((1, people))
    assert_as_the_replies_say(case, result, server, walked.entry_for(1, people))
    assert len(server.accepted) > 1


def test_a_doubt_stops_the_parts_that_follow(settings: Any, monkeypatch: Any) -> None:
    """Who was not offered it is deferred, and gets it once the doubt is settled."""
    server = Limited(10, "452 4.5.3 too many recipients")
    case = Case(
        50, {"mail": server.mail, "rcpt": server.rcpt, "dot": ["250 ok", DROP_AFTER_ACCEPT]}, retry=False
    )
    result, observer, entry = walk(case, settings)
    assert isinstance(result.result, DeliveryInDoubt)
    counts = Counter(d.status.value for d in entry.deliveries)
    assert counts == {"accepted": 10, "in_doubt": 10, "deferred": 30}
    monkeypatch.setattr(walked, "in_doubt", lambda entry: Verdict.SENT)
    with ScriptedSMTP() as second:
        settings.EMAIL_PORT = second.port
        people = [f"r{n}@example.com" for n in range(50)]
        assert walked.apply((1, people)).get() == "sent"
    served = [a for s in (observer, second) for received in s.accepted for a in received.recipients]
    assert sorted(served) == sorted(people)


@pytest.mark.parametrize("released", [False, True])
def test_an_interruption_in_a_later_part(settings: Any, monkeypatch: Any, released: bool) -> None:
    """What became of the first part says nothing about the second: that one was not sent, or is in doubt."""
    real, calls = Transaction.send_payload, iter(range(9))

    def strike(self: Transaction, *args: Any) -> Any:
        if next(calls) == 0:
            return real(self, *args)
        if released:
            self.observer.released = True
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(Transaction, "send_payload", strike)
    server = Limited(10, "452 4.5.3 too many recipients")
    case = Case(30, {"mail": server.mail, "rcpt": server.rcpt}, retry=False)
    result, observer, entry = walk(case, settings)
    assert isinstance(result.result, SoftTimeLimitExceeded)
    assert len(observer.accepted) == 1
    second = "in_doubt" if released else "deferred"
    counts = Counter(d.status.value for d in entry.deliveries)
    assert counts == Counter({"accepted": 10, "deferred": 10}) + Counter({second: 10})
