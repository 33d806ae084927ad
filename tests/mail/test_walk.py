"""A walk over every reply at every step: what the server has is what the ledger calls accepted, each once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from smtplib import SMTPException
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from django.core.mail import EmailMessage

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, RecipientsRefused, Status, wiring
from celery_idempotent.conf import conf
from celery_idempotent.core.addresses import recipient
from celery_idempotent.core.outcomes import Verdict
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.mail.connections import kept
from celery_idempotent.mail.transaction import Transaction
from tests.support.mailserver import (
    DEFAULTS,
    DROP,
    DROP_AFTER_ACCEPT,
    STALL,
    Answer,
    NotTaking,
    ScriptedSMTP,
    Taking,
)

app = Celery("walk", broker="memory://", backend="cache+memory://", set_as_current=False)
RETRY: dict[str, Any] = {
    "autoretry_for": (SMTPException, OSError),
    "max_retries": 20,
    "default_retry_delay": 0,
}


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="walked", on_mismatch="ignore", **RETRY)
def walked(n: int, to: list[str]) -> str:
    EmailMessage("Hi", "text\n.dot\n", to=to[:1], cc=to[1:2], bcc=to[2:]).send()
    return "sent"


LONG = "x" * 100_000
LINES = "".join(f"450-{'y' * 90}\r\n" for _ in range(1_100))
YES, NO_FOR_NOW, NO, UNCLEAR = "yes", "no for now", "no", "unclear"
REPLIES = {
    "250 ok": YES,
    "251 will forward": YES,
    "250 ok\r\n250 and once more": YES,
    "200 odd": UNCLEAR,
    "220 another greeting": UNCLEAR,
    "299 odd": UNCLEAR,
    "354 go ahead": UNCLEAR,
    "421 4.3.2 closing": NO_FOR_NOW,
    "450 later": NO_FOR_NOW,
    "451 4.7.1 greylisted, try again in 300 seconds": NO_FOR_NOW,
    "452 4.5.3 too many recipients": NO_FOR_NOW,
    "452 storage": NO_FOR_NOW,
    "500 what": NO,
    "503 bad sequence": NO,
    "550 5.1.1 no": NO,
    "552 5.3.4 too big": NO,
    "552 full": NO,
    "554 5.7.1 no": NO,
    "554 Transaction failed: Recipient count exceeds 50.": NO_FOR_NOW,
    "999 nine": UNCLEAR,
    "25": UNCLEAR,
    "": UNCLEAR,
    "garbage": UNCLEAR,
    "4xx later": UNCLEAR,
    "250-first\r\n550 then": UNCLEAR,
    "250 unended\0": UNCLEAR,
    "250 bare\r250 carriage returns\r\0": UNCLEAR,
    f"250 {LONG}": UNCLEAR,
    f"450 {LONG}": UNCLEAR,
    f"{LINES}450 later, at length": NO_FOR_NOW,
    DROP: UNCLEAR,
    STALL: UNCLEAR,
}
"""Replies, and what each one is after the final dot."""
STEPS = ["banner", "ehlo", "mail", "kept mail", "rcpt first", "rcpt last", "data", "dot", "quit", "kept rset"]


@dataclass
class Case:
    """One walk: what the server says, to how many, and whether the mail's fate can get lost on the way."""

    many: int
    script: dict[str, Answer] = field(default_factory=dict)
    may_be_lost: bool = False
    earlier: bool = False
    """Send something else before, so that there is a connection to use again."""
    stalls: bool = False
    reuse: bool = True
    retry: bool = True


def once(bad: str, then: str, at: int = 0) -> Callable[[str], str]:
    """Return an answer that is ``bad`` at its call number ``at`` and ``then`` at all others."""
    calls = iter(range(1_000_000))
    return lambda _: bad if next(calls) == at else then


def cases() -> list[Any]:
    """Return every reply at every step, for 1, 2 and 50 recipients."""
    return [
        pytest.param(step, reply, many, id=f"{step}-{number}-{reply[:12].strip()!a}-{many}")
        for step in STEPS
        for number, reply in enumerate(REPLIES)
        for many in (1, 2, 50)
        if not (many == 1 and step == "rcpt last") and not (many == 50 and reply is STALL)
    ]


def case_for(step: str, reply: str, many: int) -> Case:
    """Return the case in which ``reply`` is given once at ``step``."""
    verb = step.split()[0 if step.startswith("rcpt") else -1]
    at = {"rcpt last": many - 1, "kept mail": 1}.get(step, 0)
    case = Case(many, {verb: once(reply, DEFAULTS[verb], at)}, stalls=reply is STALL)
    case.earlier = step.startswith("kept")
    case.reuse = step != "quit"
    return case


@pytest.fixture(autouse=True)
def _ledger(memory_ledger: Any, tracked: None) -> None:
    """Every test here starts with an empty ledger."""


def walk(case: Case, settings: Any) -> tuple[Any, ScriptedSMTP, Any]:
    """Run the task with its retries to the end; return its result, the server, and the entry."""
    people = [f"r{n}@example.com" for n in range(case.many)]
    settings.EMAIL_TIMEOUT = 0.2 if case.stalls else 20
    walked.send_timeout = 0.2 if case.stalls else 60.0
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 30 if case.reuse else 0}
    try:
        with ScriptedSMTP(**case.script) as server:
            settings.EMAIL_PORT = server.port
            if case.earlier:
                assert walked.apply((0, people)).get() == "sent"
                server.accepted.clear()
            result = walked.apply((1, people), retries=0 if case.retry else RETRY["max_retries"])
            kept.close()
    finally:
        walked.send_timeout = 60.0
    return result, server, walked.entry_for(1, people)


def judge(case: Case, result: Any, server: ScriptedSMTP, entry: Any) -> dict[DeliveryStatus, set[str]]:
    """Assert what holds however it went: nobody twice, nobody lost, doubt only where a reply was lost."""
    served = Counter(address for received in server.accepted for address in received.recipients)
    assert not served or max(served.values()) == 1, "P1: nobody twice"
    digests = {d.recipient.digest: d.status for d in entry.deliveries}
    by_status: dict[DeliveryStatus, set[str]] = {status: set() for status in DeliveryStatus}
    for address in (f"r{n}@example.com" for n in range(case.many)):
        by_status[digests[recipient(address, conf.recipient_salt, "digest").digest]].add(address)
    accepted, doubtful = by_status[DeliveryStatus.ACCEPTED], by_status[DeliveryStatus.IN_DOUBT]
    assert accepted <= set(served), "what is on record as accepted is there"
    assert set(served) <= accepted | doubtful, "what is there is on record"
    assert not by_status[DeliveryStatus.SENDING] | by_status[DeliveryStatus.DEFERRED], "retried to the end"
    if not case.may_be_lost:
        assert not doubtful, "doubt only after the dot"
    if doubtful:
        assert isinstance(result.result, DeliveryInDoubt)
        assert entry.status is Status.IN_DOUBT
    elif by_status[DeliveryStatus.REFUSED]:
        assert isinstance(result.result, RecipientsRefused)
    else:
        assert result.get() == "sent"
    headers = [received.headers for received in server.accepted]
    assert len({(h["Message-ID"], h["Date"], h["To"], h["Cc"]) for h in headers}) <= 1
    assert not any(h["Bcc"] for h in headers)
    return by_status


@pytest.mark.parametrize(("step", "reply", "many"), cases())
def test_every_reply_at_every_step(settings: Any, step: str, reply: str, many: int) -> None:
    """The set of recipients who got the mail is the ledger's ACCEPTED, each once, after retries."""
    case = case_for(step, reply, many)
    if step != "dot":
        result, server, entry = walk(case, settings)
        if step in ("banner", "ehlo", "mail") and not reply.startswith("552"):
            assert result.get() == "sent", "refused before any recipient was named: only for now"
        judge(case, result, server, entry)
        return
    for answer in (Taking(reply), NotTaking(reply)) if REPLIES[reply] == UNCLEAR else (reply,):
        wiring._ledger.cache_clear()
        case.may_be_lost = REPLIES[reply] == UNCLEAR
        case.script["dot"] = once(answer, DEFAULTS["dot"])
        result, server, entry = walk(case, settings)
        by_status = judge(case, result, server, entry)
        ends = {YES: "accepted", NO_FOR_NOW: "accepted", NO: "refused", UNCLEAR: "in_doubt"}
        assert len(by_status[DeliveryStatus(ends[REPLIES[reply]])]) == many
        assert bool(server.accepted) == (not isinstance(answer, NotTaking) and REPLIES[reply] != NO)


ON_RCPT = ["250 ok"] * 3 + ["450 later", "451 4.7.1 grey", "550 5.1.1 no", "552 5.2.2 full"]
ODD_RCPT = ["452 4.5.3 too many", "452 full", "552 too many", "421 closing", "garbage", "299 odd", DROP]


def mixed(seed: int, many: int) -> Case:
    """Return a case in which each recipient has replies of its own, and some steps fail as well."""
    dice = random.Random(seed)
    odd = dice.choice([0, 0, 1, 3])
    replies = {
        f"r{n}@example.com": [dice.choice(ON_RCPT) for _ in range(dice.randrange(3))] for n in range(many)
    }
    for address in dice.sample(sorted(replies), min(odd, many)):
        replies[address].insert(0, dice.choice(ODD_RCPT))

    def rcpt(line: str) -> str:
        waiting = replies[line.split("<")[1].split(">")[0]]
        return waiting.pop(0) if waiting else "250 ok"

    def few(good: str, *bad: str) -> Answer:
        return [dice.choice([good, good, *bad]) for _ in range(3)] + [good]

    script: dict[str, Answer] = {"rcpt": rcpt}
    script["mail"] = few("250 ok", "451 later", "421 closing", DROP)
    script["data"] = few("354 go", "451 later", "421 closing", "452 4.5.3 too many", DROP)
    script["dot"] = few("250 ok", "451 later", "554 5.5.3 too many recipients", "421 closing")
    return Case(many, script, reuse=dice.random() < 0.8)


@pytest.mark.parametrize("many", [1, 2, 50])
@pytest.mark.parametrize("seed", range(100))
def test_mixed_replies(settings: Any, seed: int, many: int) -> None:
    """Whatever mixture: each recipient is accepted once, or refused for good, and nothing is in doubt."""
    case = mixed(seed, many)
    judge(case, *walk(case, settings))


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
    result, witness, entry = walk(case, settings)
    judge(case, result, witness, entry)
    assert witness.connections == 1
    assert server.transactions <= 20
    assert max(len(received.recipients) for received in witness.accepted) <= 7


def test_five_thousand_recipients(settings: Any) -> None:
    """Split by the server's limit on one connection, written ahead for each part, nobody served twice."""
    server = Limited(1000, "452 4.5.3 too many recipients")
    case = Case(5000, {"mail": server.mail, "rcpt": server.rcpt}, retry=False)
    result, witness, entry = walk(case, settings)
    judge(case, result, witness, entry)
    assert (witness.connections, server.transactions) == (1, 5)
    assert [len(received.recipients) for received in witness.accepted] == [1000] * 5
    assert [(a.recipients, a.outcome) for a in entry.history] == [(1000, DeliveryStatus.ACCEPTED)] * 5


def test_a_limit_announced_beforehand(settings: Any) -> None:
    """RFC 9422: not one RCPT too many."""
    server = Limited(7, "550 5.1.1 you were told")
    ehlo = "250-test\r\n250-LIMITS MAILMAX=99 RCPTMAX=7\r\n250 SIZE 0"
    case = Case(50, {"ehlo": ehlo, "mail": server.mail, "rcpt": server.rcpt}, retry=False)
    result, witness, entry = walk(case, settings)
    judge(case, result, witness, entry)
    assert server.transactions == 8


def test_a_slow_server_is_handed_over_what_it_has_taken(settings: Any) -> None:
    """Naming recipients takes half of the send timeout at most; the others are served after those."""

    def slow(line: str) -> str:
        threading.Event().wait(0.05)
        return "250 ok"

    case = Case(50, {"rcpt": slow}, retry=False)
    walked.send_timeout = 1.0
    with ScriptedSMTP(**case.script) as server:
        settings.EMAIL_PORT = server.port
        people = [f"r{n}@example.com" for n in range(50)]
        result = walked.apply((1, people))
    walked.send_timeout = 60.0
    judge(case, result, server, walked.entry_for(1, people))
    assert len(server.accepted) > 3


def test_a_doubt_stops_the_parts_that_follow(settings: Any) -> None:
    """Who was not offered it has no delivery, and gets it once the doubt is settled."""
    server = Limited(10, "452 4.5.3 too many recipients")
    case = Case(
        50, {"mail": server.mail, "rcpt": server.rcpt, "dot": ["250 ok", DROP_AFTER_ACCEPT]}, retry=False
    )
    result, witness, entry = walk(case, settings)
    assert isinstance(result.result, DeliveryInDoubt)
    assert Counter(d.status.value for d in entry.deliveries) == {"accepted": 10, "in_doubt": 10}
    walked.in_doubt = lambda entry: Verdict.SENT
    try:
        with ScriptedSMTP() as second:
            settings.EMAIL_PORT = second.port
            people = [f"r{n}@example.com" for n in range(50)]
            assert walked.apply((1, people)).get() == "sent"
    finally:
        walked.in_doubt = "hold"
    served = [a for s in (witness, second) for received in s.accepted for a in received.recipients]
    assert sorted(served) == sorted(people)


@pytest.mark.parametrize("released", [False, True])
def test_an_interruption_in_a_later_part(settings: Any, monkeypatch: Any, released: bool) -> None:
    """What became of the first part says nothing about the second: that one was not sent, or is in doubt."""
    real, calls = Transaction._release, iter(range(9))

    def strike(self: Transaction, *args: Any) -> Any:
        if next(calls) == 0:
            return real(self, *args)
        if released:
            self.witness.released = True
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(Transaction, "_release", strike)
    server = Limited(10, "452 4.5.3 too many recipients")
    case = Case(30, {"mail": server.mail, "rcpt": server.rcpt}, retry=False)
    result, witness, entry = walk(case, settings)
    assert isinstance(result.result, SoftTimeLimitExceeded)
    assert len(witness.accepted) == 1
    second = "in_doubt" if released else "deferred"
    assert Counter(d.status.value for d in entry.deliveries) == {"accepted": 10, second: 10}
