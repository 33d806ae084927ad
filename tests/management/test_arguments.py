"""The command line: what people type is taken as they mean it, or refused in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from celery_idempotent.management.arguments import duration, login, positive

WHY = ("--reason", "ticket 5", "--actor", "ann")


@pytest.fixture(params=["database", "redis"])
def _ledger(request: Any, keep_ledger_in: Callable[[str], None], db: None) -> None:
    """An empty ledger."""
    keep_ledger_in(request.param)


@pytest.mark.usefixtures("_ledger")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("purge", "--older-than", "36501d"), "longer than any email is kept"),
        (("purge", "--older-than", "999999999d", "--dry-run"), "longer than any email is kept"),
        (("purge", "--older-than", "9" * 400 + "d"), "longer than any email is kept"),
        (("purge", "--batch", "1000001"), "from 1 to 1000000"),
        (("sweep", "--stuck-after", "999999999d"), "longer than any email is kept"),
        (("sweep", "--limit", "9" * 30), "from 1 to 1000000"),
        (("sweep", "--limit", "²"), "from 1 to 1000000"),
        (("stats", "--stuck-after", "999999999d"), "longer than any email is kept"),
        (("doctor", "--stuck-after", "999999999d"), "longer than any email is kept"),
        (("show", "\udcff"), "nothing is known"),
        (("cancel", "\udcff", *WHY), "nothing is known"),
    ],
)
def test_numbers_that_no_store_has_and_bytes_that_are_no_text(arguments: tuple[str, ...], text: str) -> None:
    """One sentence, and no traceback of a database that cannot count so far."""
    with pytest.raises(CommandError, match=text):
        call_command("idempotency", *arguments)


@pytest.mark.usefixtures("_ledger")
def test_the_largest_numbers_that_are_taken() -> None:
    """Each store knows them."""
    assert (duration("36500d"), positive("1000000")) == (timedelta(days=36_500), 1_000_000)
    for command in ("stats", "sweep"):
        out = StringIO()
        call_command("idempotency", command, "--stuck-after", "36500d", stdout=out)
        assert "0 stuck" in out.getvalue()
    assert duration("1w") == timedelta(days=7)


def test_an_account_without_a_name_gives_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any id; no command may end there, and least of all the relay."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    assert login() == "uid 54321"
    monkeypatch.setenv("USER", "ann")
    assert login() == "ann"


@pytest.mark.usefixtures("_ledger")
def test_the_commands_of_an_account_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """They run, whether they have an actor or not."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    out = StringIO()
    call_command("idempotency", "sweep", stdout=out)
    assert "0 stuck" in out.getvalue()
    before = out.tell()
    call_command("idempotency", "forget", "ann@example.com", "--reason", "asked", stdout=out)
    assert out.tell() > before
