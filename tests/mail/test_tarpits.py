"""Servers that answer everything, but take their time: no worker is held, and each try gets further."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import RecipientsDeferred
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.smtp.transport import SMTPTransport
from tests.mail.bodies import task
from tests.mail.walking import Case, assert_as_the_replies_say, walked
from tests.support.mailserver import STALL, ScriptedSMTP, by_name

LATER = "450 4.2.0 later"


def slowly(answer: str | Callable[[str], str], seconds: float) -> Callable[[str], str]:
    """Return what answers after a while."""

    def slow(line: str) -> str:
        threading.Event().wait(seconds)
        return answer(line) if callable(answer) else answer

    return slow


def people(many: int) -> list[str]:
    return [f"r{n}@example.com" for n in range(many)]


class Tarpit:
    """Runs the task against a server, in so many attempts, each with ``send_timeout`` for what can be slow."""

    def __init__(self, settings: Any, monkeypatch: Any) -> None:
        self.settings, self.monkeypatch = settings, monkeypatch

    def run(self, server: ScriptedSMTP, many: int, send_timeout: float, attempts: int = 1) -> Any:
        self.settings.EMAIL_PORT = server.port
        self.monkeypatch.setattr(walked, "send_timeout", send_timeout)
        return walked.apply((1, people(many)), retries=walked.max_retries + 1 - attempts)


@pytest.fixture
def tarpit(settings: Any, monkeypatch: Any) -> Tarpit:
    settings.EMAIL_TIMEOUT = None
    return Tarpit(settings, monkeypatch)


def served(server: ScriptedSMTP) -> Counter[str]:
    return Counter(address for received in server.accepted for address in received.recipients)


def statuses(many: int) -> Counter[str]:
    return Counter(d.status.value for d in walked.entry_for(1, people(many)).deliveries)


def test_refusals_that_take_their_time(tarpit: Tarpit) -> None:
    """Who is not asked within ``send_timeout`` is deferred like those who were; nobody is left out."""
    with ScriptedSMTP(rcpt=slowly(LATER, 0.4)) as server:
        result = tarpit.run(server, many=30, send_timeout=1.0)
        assert isinstance(result.result, RecipientsDeferred)
        assert server.count("rcpt") <= 3
    assert statuses(30) == {"deferred": 30}


def test_refusals_for_good_that_take_their_time(tarpit: Tarpit) -> None:
    """Each try gets further, and the last one tells."""
    with ScriptedSMTP(rcpt=slowly("550 5.1.1 no", 0.1)) as server:
        tarpit.run(server, many=7, send_timeout=0.35, attempts=7)
        assert server.count("rcpt") <= 7 + 6, "a try may be cut in the middle of one"
    assert statuses(7) == {"refused": 7}


def test_those_who_were_not_asked_come_first_in_the_next_try(tarpit: Tarpit) -> None:
    """So some who are never taken, and slowly, do not keep the others from getting their mail."""
    slow, never = slowly(LATER, 0.2), people(10)[:8]

    def rcpt(line: str) -> str:
        return slow(line) if any(address in line for address in never) else "250 ok"

    with ScriptedSMTP(rcpt=rcpt) as server:
        tarpit.run(server, many=10, send_timeout=0.5, attempts=9)
        assert served(server) == Counter(people(10)[8:])
    assert statuses(10) == {"deferred": 8, "accepted": 2}


def test_all_come_to_their_turn_again(tarpit: Tarpit) -> None:
    """A server that takes each at the second time of asking has all in the end."""
    asked: Counter[str] = Counter()

    def greylisting(line: str) -> str:
        asked[line] += 1
        return "250 ok" if asked[line] > 1 else LATER

    with ScriptedSMTP(rcpt=slowly(greylisting, 0.1)) as server:
        result = tarpit.run(server, many=10, send_timeout=0.35, attempts=20)
        entry = walked.entry_for(1, people(10))
        assert_as_the_replies_say(Case(10), result, server, entry)


def test_acceptances_that_take_their_time(tarpit: Tarpit) -> None:
    """Some are served before time is up, however slow the server is for two; then the next."""
    with ScriptedSMTP(rcpt=slowly("250 ok", 0.4), data=slowly("354 go", 0.4)) as server:
        result = tarpit.run(server, many=3, send_timeout=1.0)
        assert_as_the_replies_say(Case(3), result, server, walked.entry_for(1, people(3)))


@pytest.mark.parametrize("limits", ["", "\r\n250-LIMITS RCPTMAX=1"], ids=["at once", "one by one"])
def test_a_server_that_hangs_at_one_recipient(tarpit: Tarpit, limits: str) -> None:
    """Who was taken before gets the mail all the same, over another connection; the others in the next try."""
    script = {"ehlo": f"250-test{limits}\r\n250 SIZE 0"}
    with ScriptedSMTP(rcpt=lambda line: STALL if "r1" in line else "250 ok", **script) as server:
        tarpit.run(server, many=5, send_timeout=1.0)
        assert served(server) == Counter(people(5)[:1])
        assert statuses(5) == {"accepted": 1, "deferred": 4}
        tarpit.run(server, many=5, send_timeout=1.0)
        assert served(server) == Counter([*people(1), *people(5)[2:]])
    assert statuses(5) == {"accepted": 4, "deferred": 1}


def test_a_server_that_hangs_at_everybody(tarpit: Tarpit) -> None:
    """One wait for all, not one for each transaction that the server's limit asks for."""
    ehlo = "250-test\r\n250-LIMITS RCPTMAX=1\r\n250 SIZE 0"
    with ScriptedSMTP(ehlo=ehlo, rcpt=STALL) as server:
        assert isinstance(tarpit.run(server, many=9, send_timeout=1.0).result, RecipientsDeferred)
        assert server.count("rcpt") == 1
    assert statuses(9) == {"deferred": 9}


def test_a_list_that_takes_too_long_goes_on_in_the_next_try(tarpit: Tarpit, monkeypatch: Any) -> None:
    """A broker does not wait for ever for a task, even if that gets on."""
    monkeypatch.setattr(SMTPTransport, "longest_list", 0.0)
    ehlo = "250-test\r\n250-LIMITS RCPTMAX=2\r\n250 SIZE 0"
    with ScriptedSMTP(ehlo=ehlo) as server:
        assert isinstance(tarpit.run(server, many=5, send_timeout=20).result, RecipientsDeferred)
        assert [received.recipients for received in server.accepted] == [people(5)[:2]]
        result = tarpit.run(server, many=5, send_timeout=20, attempts=2)
        assert_as_the_replies_say(Case(5), result, server, walked.entry_for(1, people(5)))


def test_a_list_that_takes_too_long_is_not_at_its_end(tarpit: Tarpit, monkeypatch: Any) -> None:
    """Those whom time was left for are refused for good: that is not the end for the others."""
    monkeypatch.setattr(SMTPTransport, "longest_list", 0.0)
    script = {"ehlo": "250-test\r\n250-LIMITS RCPTMAX=2\r\n250 SIZE 0"}
    with ScriptedSMTP(rcpt=by_name(r0="550 5.1.1 no", r1="550 5.1.1 no"), **script) as server:
        assert isinstance(tarpit.run(server, many=3, send_timeout=20).result, RecipientsDeferred)
        tarpit.run(server, many=3, send_timeout=20)
    assert served(server) == {"r2@example.com": 1}


def test_the_steps_before_the_payload_have_one_time_together(tarpit: Tarpit) -> None:
    """Each is within ``send_timeout``, all together are not."""
    slow = {step: slowly(answer, 0.4) for step, answer in (("mail", "250 ok"), ("rcpt", "250 ok"))}
    with ScriptedSMTP(**slow, data=slowly("354 go", 0.4)) as server:
        assert isinstance(tarpit.run(server, many=1, send_timeout=1.0).result, RecipientsDeferred)
        assert server.accepted == []
    delivery = walked.entry_for(1, people(1)).deliveries[0]
    assert (delivery.status, delivery.code) == (DeliveryStatus.DEFERRED, None)


def test_the_steps_of_the_introduction_have_one_time_together(tarpit: Tarpit, settings: Any) -> None:
    """Greeting, EHLO and AUTH: none takes too long by itself."""
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "shop", "secret"
    script = {"banner": "220 test", "ehlo": "250-test\r\n250 AUTH PLAIN", "auth": "235 welcome"}
    with ScriptedSMTP(**{step: slowly(answer, 0.4) for step, answer in script.items()}) as server:
        assert isinstance(tarpit.run(server, many=1, send_timeout=1.0).result, OSError)
        assert server.count("mail") == 0
        assert tarpit.run(server, many=1, send_timeout=20).get() == "sent"


def test_a_connection_of_the_bodys_own_has_one_time_too(settings: Any) -> None:
    """Opened by the body, before there is a hand-over."""
    settings.EMAIL_TIMEOUT = None
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "shop", "secret"

    @task("own-slow-connection", send_timeout=1.0)
    def own(n: int) -> None:
        with get_connection() as connection:
            EmailMessage("Hi", "text", to=["ann@example.com"], connection=connection).send()

    script = {"banner": "220 test", "ehlo": "250-test\r\n250 AUTH PLAIN", "auth": "235 welcome"}
    with ScriptedSMTP(**{step: slowly(answer, 0.4) for step, answer in script.items()}) as server:
        settings.EMAIL_PORT = server.port
        assert isinstance(own.apply((1,)).result, OSError)
        assert server.count("mail") == 0


def test_a_connection_that_the_body_opens_early(settings: Any) -> None:
    """The time for its introduction is not that for the mail, which may be written after it."""
    settings.EMAIL_TIMEOUT = None

    @task("own-early-connection", send_timeout=2.0)
    def early(n: int) -> str:
        with get_connection() as connection:
            threading.Event().wait(2.1)
            EmailMessage("Hi", "text", to=["ann@example.com"], connection=connection).send()
        return "sent"

    with ScriptedSMTP() as server:
        settings.EMAIL_PORT = server.port
        assert early.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1
