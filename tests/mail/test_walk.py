"""A walk over every reply at every step: what the server has is what the ledger calls accepted, each once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.smtp.connections import pool
from celery_idempotent.stores import factory
from tests.mail.walking import Case, assert_as_the_replies_say, walk
from tests.support.mailserver import (
    DEFAULTS,
    DROP,
    STALL,
    Answer,
    NotTaking,
    Taking,
)

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
EVERY_SIZE = {
    "250 ok",
    "421 4.3.2 closing",
    "452 4.5.3 too many recipients",
    "550 5.1.1 no",
    "554 Transaction failed: Recipient count exceeds 50.",
    "garbage",
    DROP,
}
"""Replies of every kind: the tier `test` gives these alone to 1 and to 50 recipients as well as to 2."""
STEPS = ["banner", "ehlo", "mail", "kept mail", "rcpt first", "rcpt last", "data", "dot", "quit", "kept rset"]


def once(bad: str, then: str, at: int = 0) -> Callable[[str], str]:
    """Return an answer that is ``bad`` at its call number ``at`` and ``then`` at all others."""
    calls = iter(range(1_000_000))
    return lambda _: bad if next(calls) == at else then


def cases() -> list[Any]:
    """Return every reply at every step, for 1, 2 and 50 recipients; `full` where 2 stand for the others."""
    return [
        pytest.param(
            step,
            reply,
            many,
            id=f"{step}-{number}-{reply[:12].strip()!a}-{many}",
            marks=[] if many == 2 or reply in EVERY_SIZE else pytest.mark.full,
        )
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


@pytest.mark.parametrize(("step", "reply", "many"), cases())
def test_every_reply_at_every_step(
    settings: Any, monkeypatch: pytest.MonkeyPatch, step: str, reply: str, many: int
) -> None:
    """The set of recipients who got the mail is the ledger's ACCEPTED, each once, after retries."""
    case = case_for(step, reply, many)
    if case.stalls:
        monkeypatch.setattr(pool, "health_patience", 0.3)
    if step != "dot":
        result, server, entry = walk(case, settings)
        if step in ("banner", "ehlo", "mail") and not reply.startswith("552"):
            assert result.get() == "sent", "refused before any recipient was named: only for now"
        assert_as_the_replies_say(case, result, server, entry)
        return
    for answer in (Taking(reply), NotTaking(reply)) if REPLIES[reply] == UNCLEAR else (reply,):
        factory.forget_ledgers()
        case.may_be_lost = REPLIES[reply] == UNCLEAR
        case.script["dot"] = once(answer, DEFAULTS["dot"])
        result, server, entry = walk(case, settings)
        by_status = assert_as_the_replies_say(case, result, server, entry)
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


SEEDS = [pytest.param(seed, marks=pytest.mark.full if seed >= 20 else []) for seed in range(100)]


@pytest.mark.parametrize("many", [1, 2, 50])
@pytest.mark.parametrize("seed", SEEDS)
def test_mixed_replies(settings: Any, seed: int, many: int) -> None:
    """Whatever mixture: each recipient is accepted once, or refused for good, and nothing is in doubt."""
    case = mixed(seed, many)
    assert_as_the_replies_say(case, *walk(case, settings))
