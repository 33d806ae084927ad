"""Recipients that a mail server refuses for now are offered the mail again, they alone."""

from __future__ import annotations

import itertools

import pytest

from celery_idempotent import RecipientsDeferred
from celery_idempotent.execution.body import deferral
from tests.acceptance import questions
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.shop import Shop

orders = itertools.count(1)


@pytest.fixture
def rcpt(shop: Shop) -> dict[str, list[str]]:
    """Answers to come for a recipient, by the first letters of the address."""
    answers: dict[str, list[str]] = {}

    def answer(line: str) -> str:
        left = next((left for name, left in answers.items() if f"<{name}" in line), [])
        return left.pop(0) if left else "250 ok"

    shop.server.script["rcpt"] = answer
    return answers


def test_a_task_that_says_nothing_about_retries_serves_everybody(
    shop: Shop, rcpt: dict[str, list[str]]
) -> None:
    """The deferred one alone is offered it again: same Message-ID, same To; the task ends in SUCCESS."""
    rcpt["bob"] = ["450 4.2.0 mailbox busy", "451 4.3.0 later"]
    value, status, deliveries, state = shop.ask(questions.run_and_look_closer, "announce", next(orders))
    assert (value, status, state) == ("announced", "sent", "SUCCESS")
    assert deliveries == ["accepted"] * 3
    first, second = shop.server.accepted
    assert first.recipients == ["ann@example.com", "cat@example.com"]
    assert second.recipients == ["bob@example.com"]
    assert first.message_id == second.message_id
    assert first.headers["To"] == second.headers["To"] == "ann@example.com, bob@example.com, cat@example.com"
    assert len(shop.bodies()) == 3


def test_who_is_never_taken_fails_visibly_in_the_end(shop: Shop, rcpt: dict[str, list[str]]) -> None:
    """After `deferred_retries`; whoever was served stays served."""
    rcpt["bob"] = ["450 4.2.0 mailbox busy"] * 20
    value, status, deliveries, _ = shop.ask(questions.run_and_look_closer, "announce", next(orders))
    assert (value, status) == ("RecipientsDeferred", "failed")
    assert deliveries == ["accepted", "accepted", "deferred"]
    assert len(rcpt["bob"]) == 20 - 4, "once, and three retries"
    assert shop.copies() == 1


def test_an_earlier_retry_for_something_else_changes_nothing(shop: Shop, rcpt: dict[str, list[str]]) -> None:
    """What the task declares for other trouble says nothing about recipients who are refused for now."""
    rcpt["ann"] = ["450 4.7.1 greylisted, try again in 1 second", "450 4.2.0 mailbox busy"]
    value, status, _, state = shop.ask(questions.run_and_look_closer, "announce_after_trouble", next(orders))
    assert (value, status, state) == ("announced", "sent", "SUCCESS")
    assert (shop.copies(), len(shop.bodies())) == (1, 4)


OWN_RETRIES = {
    "announce_once_more": 2,
    "announce_just_once": 1,
    "announce_twice_by_hand": 2,
    "announce_once_by_hand": 1,
    "announce_twice_by_limit": 2,
    "announce_twice_by_count": 2,
}


@pytest.mark.parametrize(("task", "offers"), OWN_RETRIES.items())
def test_a_task_with_retries_of_its_own_has_those_alone(
    shop: Shop, rcpt: dict[str, list[str]], task: str, offers: int
) -> None:
    """They are exhausted when they are, or there are none on purpose."""
    rcpt["ann"] = ["450 4.2.0 mailbox busy"] * 20
    value, status, _, _ = shop.ask(questions.run_and_look_closer, task, next(orders))
    assert (value, status) == ("RecipientsDeferred", "failed")
    assert len(rcpt["ann"]) == 20 - offers


@pytest.mark.parametrize("task", ["announce_quietly", "announce_quietly_twice"])
def test_a_body_that_swallows_the_error_serves_everybody_all_the_same(
    shop: Shop, rcpt: dict[str, list[str]], task: str
) -> None:
    """P2: it comes back as if it had raised, by deferral or by the task's own retries, and nobody gets two."""
    rcpt["bob"] = ["450 4.2.0 mailbox busy"]
    value, status, deliveries, state = shop.ask(questions.run_and_look_closer, task, next(orders))
    assert (value, status, state) == ("done", "sent", "SUCCESS")
    assert deliveries == ["accepted"] * 2
    assert [received.recipients for received in shop.server.accepted] == [
        ["ann@example.com"],
        ["bob@example.com"],
    ]


@pytest.mark.parametrize(("task", "offers"), [("announce_quietly", 4), ("announce_quietly_twice", 2)])
def test_a_body_that_swallows_the_error_fails_visibly_in_the_end(
    shop: Shop, rcpt: dict[str, list[str]], task: str, offers: int
) -> None:
    """P2: with the error that it has swallowed last, once the retries are used up."""
    rcpt["bob"] = ["450 4.2.0 mailbox busy"] * 20
    value, status, deliveries, _ = shop.ask(questions.run_and_look_closer, task, next(orders))
    assert (value, status) == ("RecipientsDeferred", "failed")
    assert deliveries == ["accepted", "deferred"]
    assert len(rcpt["bob"]) == 20 - offers


def test_a_body_that_swallows_that_it_was_not_let_in(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: there is nothing in the ledger about that mail, and it is sent when the server is well again."""
    script = shop.server.script
    monkeypatch.setitem(script, "rset", "421 4.3.2 closing")  # no connection from before is of use
    monkeypatch.setitem(script, "banner", ["421 4.3.2 closing", str(script["banner"])])
    shop.server.forget_calls()
    order = next(orders)
    value, status, deliveries, state = shop.ask(questions.run_and_look_closer, "announce_quietly", order)
    assert (value, status, state) == ("done", "sent", "SUCCESS")
    assert deliveries == ["accepted"] * 2
    assert [line.split()[0] for line in shop.bodies()] == ["quietly", "swallowed", "quietly"]
    assert shop.copies() == 1


@pytest.mark.parametrize(
    ("task", "args", "copies"),
    [
        ("insistent", (), 2),
        ("verified", ("not sent",), 2),
        ("quietly_insistent", (), 2),
        ("verified", ("sent",), 1),
    ],
)
def test_a_doubt_that_the_tasks_own_rules_settle(
    shop: Shop, task: str, args: tuple[str, ...], copies: int
) -> None:
    """P2: the task comes back for it by itself, also where its body has swallowed the error."""
    shop.server.script["dot"] = [DROP_AFTER_ACCEPT, "250 ok"]
    value, status, deliveries, state = shop.ask(questions.run_and_look_closer, task, next(orders), *args)
    assert (value, status, {*deliveries}, state) == ("sent", "sent", {"accepted"}, "SUCCESS")
    assert shop.copies() == copies
    assert len({received.message_id for received in shop.server.accepted}) == 1


def test_a_server_whose_replies_always_get_lost(shop: Shop) -> None:
    """It may have the mail twice, and not as often as there are retries: then somebody has to look."""
    shop.server.script["dot"] = [DROP_AFTER_ACCEPT] * 9
    value, status, deliveries, state = shop.ask(questions.run_and_look_closer, "insistent", next(orders))
    assert (value, status, deliveries, state) == ("SMTPServerDisconnected", "in_doubt", ["in_doubt"], "FAILURE")
    assert shop.copies() == 2


def test_a_doubt_that_no_rule_settles_is_held(shop: Shop) -> None:
    """The verifier does not know, when the task has come back: it ends as one that is held."""
    shop.server.script["dot"] = [DROP_AFTER_ACCEPT, "250 ok"]
    value, status, deliveries, state = shop.ask(
        questions.run_and_look_closer, "verified", next(orders), "unknown"
    )
    assert (value, status, deliveries, state) == ("DeliveryInDoubt", "in_doubt", ["in_doubt"], "FAILURE")
    assert shop.copies() == 1


def test_the_pauses_grow_from_a_minute_to_a_quarter_of_an_hour() -> None:
    """Not longer, because brokers do not keep a message for longer."""
    assert [deferral(n, RecipientsDeferred("x")) for n in range(6)] == [60, 120, 240, 480, 900, 900]
    assert deferral(10_000, RecipientsDeferred("x")) == 900


def test_a_pause_is_as_long_as_the_server_asks_for() -> None:
    """Up to a quarter of an hour, for the same reason; and not shorter than it would be anyway."""
    asking = RecipientsDeferred("x", 300.0)
    assert [deferral(n, asking) for n in range(5)] == [300, 300, 300, 480, 900]
    assert deferral(0, RecipientsDeferred("x", 3600.0)) == 900
