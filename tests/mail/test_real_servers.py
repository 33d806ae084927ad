"""The same walk with servers that others wrote: aiosmtpd, and Postfix, its queue and mailboxes the observer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from smtplib import SMTPException
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import (
    DeliveryInDoubt,
    IdempotentEmailTask,
    RecipientsDeferred,
    RecipientsRefused,
    Status,
)
from celery_idempotent.mail.smtp.connections import pool
from tests.support.postfix import Postfix
from tests.support.reply_losing_proxy import LosingProxy
from tests.support.servers import free_port

app = Celery("real-servers", broker="memory://", backend="cache+memory://", set_as_current=False)
RETRY: dict[str, Any] = {"autoretry_for": (SMTPException, OSError), "max_retries": 9, "default_retry_delay": 0}


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="retried", on_mismatch="ignore", **RETRY)
def retried(n: int, to: list[str]) -> str:
    EmailMessage("Hi", "text\n.dot\n", to=to[:1], cc=to[1:2], bcc=to[2:]).send()
    return "sent"


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="tried-once", on_mismatch="ignore", max_retries=0)
def tried(n: int, to: list[str], body: str = "text") -> str:
    EmailMessage("Hi", body, to=to[:1], cc=to[1:2], bcc=to[2:]).send()
    return "sent"


def people(many: int) -> list[str]:
    return [f"r{n}@example.com" for n in range(many)]


def statuses(entry: Any) -> Counter[str]:
    return Counter(d.status.value for d in entry.deliveries)


class Handler:
    """Says what the test wants, once at one step; keeps what it takes."""

    def __init__(self) -> None:
        self.once: dict[str, str] = {}
        self.taken: list[str] = []

    def _say(self, step: str, server: Any) -> str | None:
        reply = self.once.pop(step, None)
        if reply == "DROP":
            server.transport.abort()
        elif reply == "421":
            return "421 4.3.2 closing"
        return reply

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str, responses: Any) -> Any:
        session.host_name = hostname
        return [self._say("ehlo", server)] if "ehlo" in self.once else responses

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if (reply := self._say("mail", server)) is not None:
            return reply
        envelope.mail_from = address
        return "250 ok"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        reply = self._say(f"rcpt {address}", server) or "250 ok"
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        reply = self._say("dot", server) or "250 ok"
        if reply[:2] == "25" or reply == "DROP":
            self.taken += envelope.rcpt_tos
        return reply


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    yield controller
    controller.stop()


@pytest.fixture
def handler(controller: Controller, settings: Any) -> Iterator[Handler]:
    settings.EMAIL_PORT = controller.port
    handler = controller.handler
    handler.once.clear()
    handler.taken.clear()
    yield handler
    pool.close()


ANSWERS = [
    "250 ok",
    "299 odd",
    "421",
    "450 4.7.1 grey",
    "452 4.5.3 too many",
    "500 what",
    "550 no",
    "552 full",
    "DROP",
]


MANY = [pytest.param(1, marks=pytest.mark.full), 2, pytest.param(50, marks=pytest.mark.full)]
"""How many recipients: two stand for the others in the tier `test`."""


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("step", ["ehlo", "mail", "rcpt first", "rcpt last", "dot"])
def test_aiosmtpd(handler: Handler, step: str, answer: str, many: int) -> None:
    """What it has taken is what is on record, each once, after retries; doubt only where its reply was lost."""
    who = {"rcpt first": "rcpt r0@example.com", "rcpt last": f"rcpt r{many - 1}@example.com"}
    handler.once[who.get(step, step)] = answer
    result = retried.apply((1, people(many)))
    entry = retried.entry_for(1, people(many))
    found = statuses(entry)
    assert len(handler.taken) == len(set(handler.taken)), "nobody twice"
    if step == "dot" and answer in ("DROP", "299 odd"):
        assert isinstance(result.result, DeliveryInDoubt)
        assert (entry.status, found) == (Status.IN_DOUBT, {"in_doubt": many})
        return
    assert found["accepted"] == len(handler.taken)
    assert found["accepted"] + found["refused"] == many
    assert (result.state == "SUCCESS") is (found["refused"] == 0)


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    if os.geteuid() != 0:
        # On a laptop that hides nothing that CI would not see.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Postfix starts as root alone")
    with Postfix() as server:
        yield server


@pytest.fixture
def mta(postfix: Postfix, settings: Any) -> Iterator[Postfix]:
    settings.EMAIL_PORT = postfix.port
    postfix.answer("")
    postfix.delivered()
    yield postfix
    pool.close()


GREY = "450 4.7.1 Greylisted, try again in 120 seconds"
RULES = {
    "nothing": "",
    "greylisting": f"/./ {GREY}\n",
    "greylisting of some": f"/[13579]@/ {GREY}\n",
    "a closing server": "/r1@/ 421 4.3.2 closing\n",
    "a refusal": "/r0@/ 550 5.7.1 no\n",
    "some of each": f"/[12]@/ {GREY}\n/[34]@/ 550 5.7.1 no\n",
}


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
@pytest.mark.process
def test_postfix(mta: Postfix, rules: str, many: int) -> None:
    """Refused for now, then not: its mailboxes hold a copy for each recipient that is on record as accepted."""
    mta.answer(rules)
    first = tried.apply((1, people(many)))
    pool.close()  # the next connection gets a process that reads the rules anew
    mta.answer("")
    if isinstance(first.result, RecipientsDeferred):
        assert first.result.retry_after == (None if "421" in rules else 120)
        tried.apply((1, people(many)))
    found = statuses(tried.entry_for(1, people(many)))
    delivered = mta.delivered()
    assert len({who for who, _ in delivered}) == len(delivered) == found["accepted"]
    assert found["accepted"] + found["refused"] == many
    assert len({(m["Message-ID"], m["To"], m["Cc"]) for _, m in delivered}) <= 1
    assert not any(m["Bcc"] for _, m in delivered)


@pytest.mark.process
def test_postfix_and_its_limit_of_recipients(mta: Postfix) -> None:
    """500 people at 50 a transaction: ten messages in its queue, 500 copies, one connection."""
    before = len(mta.queued()), mta.log().count(" connect from")
    assert tried.apply((1, people(500))).get() == "sent"
    delivered = mta.delivered()
    assert len({who for who, _ in delivered}) == len(delivered) == 500
    assert mta.queued()[before[0] :] == [50] * 10
    assert mta.log().count(" connect from") - before[1] == 1
    assert statuses(tried.entry_for(1, people(500))) == {"accepted": 500}


@pytest.mark.process
def test_postfix_and_its_unknown_users(mta: Postfix) -> None:
    """550 5.1.1 for one, the others are served, and the error comes once they are."""
    assert isinstance(tried.apply((1, ["gone@example.com", *people(3)])).result, RecipientsRefused)
    assert len(mta.delivered()) == 3


@pytest.mark.process
def test_postfix_and_its_size(mta: Postfix) -> None:
    """Refused before DATA, for good."""
    entry = tried.apply((1, people(2), "x" * 200_000))
    assert isinstance(entry.result, RecipientsRefused)
    assert [d.code for d in tried.entry_for(1, people(2)).deliveries] == [552, 552]
    assert mta.delivered() == []


@pytest.mark.process
def test_postfix_over_starttls(mta: Postfix, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many messages on one encrypted connection."""
    monkeypatch.setenv("SSL_CERT_FILE", f"{mta.directory}/ca.pem")
    settings.EMAIL_USE_TLS, settings.EMAIL_HOST = True, "localhost"
    connects = mta.log().count(" connect from")
    for n in range(5):
        assert tried.apply((n, people(2))).get() == "sent"
    assert len(mta.delivered()) == 10
    assert mta.log().count(" connect from") - connects == 1


@pytest.mark.process
def test_postfix_whose_reply_is_lost(mta: Postfix, settings: Any) -> None:
    """It has the mail and nobody knows: in doubt, one copy, and nobody sends another."""
    with LosingProxy(mta.port) as proxy:
        settings.EMAIL_PORT = proxy.port
        assert isinstance(tried.apply((1, people(2))).result, DeliveryInDoubt)
    settings.EMAIL_PORT = mta.port
    assert isinstance(tried.apply((1, people(2))).result, DeliveryInDoubt)
    assert tried.entry_for(1, people(2)).status is Status.IN_DOUBT
    assert sorted(who for who, _ in mta.delivered()) == people(2)
