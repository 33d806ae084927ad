"""One Message-ID for all that is offered of one message: by any host, and in any order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from django.core.mail import EmailMessage, get_connection
from django.core.mail.utils import DNS_NAME

from tests.mail.bodies import run, task
from tests.support.mailserver import ScriptedSMTP, by_name

LATER = "450 4.2.0 mailbox busy"


@pytest.fixture
def hosts(settings: Any, monkeypatch: Any) -> Any:
    """Tells which host this process is on; the project has not named a domain for its Message-IDs."""
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "MESSAGE_ID_DOMAIN": None}

    def move(name: str) -> None:
        monkeypatch.setattr(DNS_NAME, "get_fqdn", lambda: name)

    return move


def test_a_retry_on_another_host_keeps_the_message_id(settings: Any, hosts: Any) -> None:
    """Also where it addresses the people in another order: the first of them gives the Message-ID."""
    people = ["ann@example.com", "bob@example.com"]

    @task("travelling")
    def travelling(n: int) -> None:
        EmailMessage("Hi", "text", to=people).send()

    for host, script in (("pod-a", {"rcpt": by_name(bob=LATER)}), ("pod-b", {})):
        hosts(host)
        with ScriptedSMTP(**script) as server:
            run(server, settings, travelling)
        (received,) = server.accepted
        assert received.message_id.endswith("@pod-a>")
        people.reverse()
    deliveries = travelling.entry_for(1).deliveries
    assert {delivery.message_id for delivery in deliveries} == {received.message_id}


def test_what_comes_first_on_another_host_is_named_there(settings: Any, hosts: Any) -> None:
    """Only what was offered before has a name from before."""
    cut = [False, True]

    @task("second-there")
    def second_there(n: int) -> None:
        EmailMessage("Hi", "one", to=["ann@example.com"]).send()
        if cut.pop():
            raise ValueError
        EmailMessage("Hi", "two", to=["bob@example.com"]).send()

    hosts("pod-a")
    with ScriptedSMTP() as first:
        run(first, settings, second_there)
    hosts("pod-b")
    with ScriptedSMTP() as second:
        run(second, settings, second_there)
    assert [received.message_id.partition("@")[2] for received in first.accepted + second.accepted] == [
        "pod-a>",
        "pod-b>",
    ]


def test_two_messages_to_one_person_have_two_names_in_any_order(settings: Any) -> None:
    """P2: receivers that suppress duplicates by Message-ID would show one of them alone."""
    order = [0, 1]

    @task("in-any-order")
    def in_any_order(n: int) -> None:
        both = [
            EmailMessage("Hi", "one", to=["ann@example.com", "bob@example.com"]),
            EmailMessage("Hi", "two", to=["bob@example.com"]),
        ]
        with get_connection() as connection:
            connection.send_messages([both[n] for n in order])

    with ScriptedSMTP(rcpt=by_name(bob=LATER)) as server:
        run(server, settings, in_any_order)
    order.reverse()
    with ScriptedSMTP() as server:
        assert run(server, settings, in_any_order).successful()
    first, second = server.accepted
    assert first.recipients == second.recipients == ["bob@example.com"]
    assert first.message_id != second.message_id


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process nine hours ahead of UTC, as Django makes one of its TIME_ZONE."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("local", "zone"), [(True, "+0900"), (False, "+0000")])
@pytest.mark.usefixtures("tokyo")
def test_the_date_is_in_the_zone_that_django_would_take(settings: Any, local: bool, zone: str) -> None:
    """As `EMAIL_USE_LOCALTIME` says; the moment is the same in every attempt."""
    settings.EMAIL_USE_LOCALTIME = local

    @task(f"dated-{local}")
    def dated(n: int) -> None:
        EmailMessage("Hi", "text", to=["ann@example.com"]).send()

    with ScriptedSMTP() as server:
        run(server, settings, dated)
    assert server.accepted[0].headers["Date"].endswith(zone)
    begun = dated.entry_for(1).begun_at.replace(microsecond=0)
    assert parsedate_to_datetime(server.accepted[0].headers["Date"]) == begun
