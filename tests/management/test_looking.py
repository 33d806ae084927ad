"""``show`` and ``stats``: an email by whatever one knows of it, and what waits; and mistakes in a call."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.models import LogicalEmail
from tests.management.calling import DOUBTFUL, WHY, claimant, made, refused, run

# -- looking -----------------------------------------------------------------------------------------------


def test_show_finds_an_email_by_whatever_one_has(ledger: Ledger, app: Celery) -> None:
    """Key, the beginning of one, task id, Message-ID, or the key fields as one would type them."""
    entry = made(ledger, claimant(app))
    made(ledger, claimant(app, 8, "task-8"))
    fields = ("--type", "commanded", "--field", "order_id=7", "--field", "to=Ann@Example.com")
    for arguments in ((entry.key,), (entry.key[:14],), (entry.key[2:14],), ("task-7",), fields):
        page = run("show", *arguments)
        for text in (entry.key, "order_id=7", "a***@example.com", "queued as 4711", "worker@host", "Done."):
            assert text in page
    assert "ann@example.com" not in page
    several = run("show", "<m@shop>")
    assert several.count("commanded") == 2


def test_a_number_and_its_text_are_two_keys(ledger: Ledger, app: Celery) -> None:
    """Typed in a shell they look alike, so both are looked for."""
    made(ledger, claimant(app, "7", "task-text"))
    fields = ("--type", "commanded", "--field", "order_id=7", "--field", "to=ann@example.com")
    assert "task-text" in run("show", *fields)
    made(ledger, claimant(app, 7))
    assert run("show", *fields).count("commanded") == 2


def test_show_for_machines(ledger: Ledger, app: Celery) -> None:
    """All of it, as JSON; never an address in clear."""
    entry = made(ledger, claimant(app))
    (data,) = json.loads(run("show", entry.key, "--json"))
    assert (data["status"], data["result"], data["generation"]) == ("sent", {"ok": 1}, 1)
    assert data["deliveries"][0]["code"] == 250
    assert data["send_attempts"][0]["worker"] == "worker@host"
    assert data["sent_at"] == entry.sent_at.isoformat()


def test_a_sent_email_whose_body_was_cut_off_is_counted_and_listed(
    ledger: Ledger, app: Celery, settings: Any
) -> None:
    """After the time that makes others stuck, and yet not as stuck nor as a failure: that may have been all."""
    settings.SILENCED_SYSTEM_CHECKS = [f"celery_idempotent.{name}" for name in ("W020", "W021", "W012")]
    made(ledger, claimant(app))
    cut_off = made(ledger, claimant(app, 8, "task-8"), DOUBTFUL)
    run("resolve", "task-8", "--sent", *WHY)
    assert "\n0 unfinished" in run("stats")
    assert "unfinished since" in run("show", "task-8")
    since = LogicalEmail.objects.get(owner="task-8").updated_at - timedelta(hours=3)
    LogicalEmail.objects.filter(unfinished=True).update(deadline=since)
    assert "\n1 unfinished" in run("stats")
    assert json.loads(run("stats", "--json"))["unfinished"] == 1
    assert [one["key"] for one in json.loads(run("stats", "--unfinished", "--json"))] == [cut_off.key]
    assert run("stats", "--unfinished", "--stuck-after", "4h").strip() == "none"
    assert run("stats", "--stuck", "--stuck-after", "0s").strip() == "none"
    assert "ok     unfinished: 1 sent, and cut off" in run("doctor")
    swept = json.loads(run("sweep", "--stuck-after", "0s", "--json"))
    assert (swept["released"], swept["in_doubt"], swept["stuck"]) == (0, 0, []), "it is nobody's claim"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("show", "nothing"), "nothing is known"),
        (("show",), "give a key"),
        (("show", "x", "--type", "commanded"), "give a key"),
        (("show", "--type", "unknown", "--field", "a=1"), "there are commanded"),
        (("show", "--type", "commanded", "--field", "order_id=7"), "order_id, to; give each"),
        (("show", "--type", "commanded", "--field", "nonsense"), "name=value"),
        (("resolve", "nothing", "--sent", *WHY), "nothing is known by 'nothing'"),
        (("resolve", "x", *WHY), "--sent --not-sent is required"),
        (("cancel", "x"), "--reason"),
        (("cancel", "x", "--reason", " "), "nothing is known"),
        (("purge", "--older-than", "90"), "write 90d"),
        (("purge", "--older-than=-5d"), "is negative"),
        (("purge", "--older-than", "-5d"), "is negative"),
        (("sweep", "--stuck-after", "-5d", "--limit", "5"), "is negative"),
        (("purge", "--batch", "0"), "from 1 to"),
        (("sweep", "--limit", "-1"), "from 1 to"),
        (("forget", "ann", *WHY), "one address"),
        (("dance",), "invalid choice"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(ledger: Ledger, arguments: tuple[str, ...], text: str) -> None:
    """One sentence, no traceback."""
    assert text in str(refused(*arguments))


def test_stats(ledger: Ledger, app: Celery) -> None:
    """Counts by type and status, and lists of what waits."""
    assert "0 stuck" in run("stats")
    made(ledger, claimant(app))
    doubtful = made(ledger, claimant(app, 8, "task-8"), DOUBTFUL)
    table = run("stats")
    headings, line, total = (row.split() for row in table.splitlines()[:3])
    assert line[0] == "commanded"
    assert "sent" in headings
    assert line[1:] == total[1:]
    data = json.loads(run("stats", "--json"))
    assert data["types"]["commanded"]["sent"] == 1
    assert data["types"]["commanded"]["in_doubt"] == 1
    assert doubtful.key in run("stats", "--in-doubt")
    assert run("stats", "--stuck").strip() == "none"
    LogicalEmail.objects.update(updated_at=doubtful.created_at - timedelta(hours=3))
    assert doubtful.key in run("stats", "--stuck")
    assert run("stats", "--stuck", "--stuck-after", "4h").strip() == "none"
    assert [one["key"] for one in json.loads(run("stats", "--in-doubt", "--json"))] == [doubtful.key]
