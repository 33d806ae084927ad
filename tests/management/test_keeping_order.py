"""``sweep``, ``purge`` and ``forget``, and the tasks that do the same for beat."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from celery import Celery

from celery_idempotent.ledger.entry import After
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.models import LogicalEmail
from tests.management.calling import ACCEPTED, DOUBTFUL, POLICY, WHY, claimant, entry_of, made, refused, run

# -- keeping order -----------------------------------------------------------------------------------------


def test_sweep(ledger: Ledger, app: Celery) -> None:
    """What it did, for people and for machines."""
    for n in (1, 2):
        entry = ledger.claim(claimant(app, n, f"task-{n}"), POLICY).entry
        ledger.store.swap(replace(entry, deadline=After(-1)), entry.version)
    assert json.loads(run("sweep", "--limit", "1", "--json"))["released"] == 1
    assert "1 claims released" in run("sweep")


def test_purge(ledger: Ledger, app: Celery) -> None:
    """An age that is too short is refused; a dry run only counts."""
    made(ledger, claimant(app))
    assert "too short an age" in str(refused("purge", "--older-than", "30m"))
    assert "--force REASON" in str(refused("purge", "--older-than", "89d"))
    assert run("purge", "--older-than", "89d", "--force", "a test").strip() == "0 removed"
    assert "longer than any email is kept" in str(refused("purge", "--older-than", "99999999999d"))
    assert json.loads(run("purge", "--dry-run", "--json")) == {"would_remove": 0}
    LogicalEmail.objects.update(updated_at=LogicalEmail.objects.get().created_at - timedelta(days=91))
    assert run("purge", "--dry-run").strip() == "1 would be removed"
    assert run("purge", "--older-than", "90d").strip() == "1 removed"
    assert not LogicalEmail.objects.exists()


def test_forget(ledger: Ledger, app: Celery, settings: Any) -> None:
    """Erased; with something unfinished it ends with 3 and says so."""
    from celery_idempotent.ledger.addresses import recipient

    who = recipient("ann@example.com", settings.SECRET_KEY, "masked")
    for n, replies in ((1, ACCEPTED), (2, DOUBTFUL)):
        made(ledger, claimant(app, n, f"task-{n}"), {("0", who): next(iter(replies.values()))})
    error = refused("forget", "ann@example.com", *WHY)
    assert error.returncode == 3
    assert "1 are not finished" in str(error)
    run("resolve", "task-2", "--sent", *WHY)
    told = run("forget", "ann@example.com", *WHY)
    assert "erased from 1 emails; 1 had been cut off" in told
    assert entry_of(ledger, LogicalEmail.objects.get(owner="task-2").key).key in told
    assert run("forget", "ann@example.com", *WHY).strip() == "erased from 0 emails"


def test_forget_without_a_reason(ledger: Ledger, app: Celery, settings: Any) -> None:
    """The address is enough, and the audit has the reason that there always is."""
    from celery_idempotent.ledger.addresses import recipient

    who = recipient("ann@example.com", settings.SECRET_KEY, "masked")
    key = made(ledger, claimant(app), {("0", who): next(iter(ACCEPTED.values()))}).key
    assert "reason is empty" in str(refused("forget", "ann@example.com", "--reason", " "))
    assert "erased from 1 emails" in run("forget", "ann@example.com")
    (one,) = entry_of(ledger, key).audit
    assert (one.action, one.reason) == ("recipient forgotten", "erasure asked for")


def test_the_tasks_for_beat(ledger: Ledger, app: Celery) -> None:
    """They do what the commands do."""
    app.finalize()
    entry = ledger.claim(claimant(app), POLICY).entry
    ledger.store.swap(replace(entry, deadline=After(-1)), entry.version)
    done = app.tasks["celery_idempotent.sweep"].apply(kwargs={"limit": 5}).get()
    assert (done["released"], done["stuck"]) == (1, 0)
    assert app.tasks["celery_idempotent.purge"].apply(kwargs={"days": 90}).get() == 0
    json.dumps(done)
