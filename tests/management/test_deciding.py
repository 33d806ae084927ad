"""``resolve``, ``reopen``, ``release`` and ``cancel``: what an operator decides about an email."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import Status, signals
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.models import LogicalEmail
from celery_idempotent.stores import factory
from celery_idempotent.testing import hold
from tests.management.calling import DOUBTFUL, POLICY, WHY, claimant, entry_of, made, refused, run

# -- deciding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "status"), [("--sent", Status.SENT), ("--not-sent", Status.RELEASED)])
def test_resolve(ledger: Ledger, app: Celery, verdict: str, status: Status) -> None:
    """Settled, audited, told by a signal, and in the tables; twice is refused."""
    heard: list[Any] = []

    def listen(**said: Any) -> None:
        heard.append(said["entry"].key)

    signal = signals.email_sent if status is Status.SENT else signals.email_released
    signal.connect(listen)
    entry = made(ledger, claimant(app), DOUBTFUL)
    assert "resolve" in run("show", entry.key)
    try:
        assert "resolved as" in run("resolve", entry.key, verdict, *WHY)
    finally:
        signal.disconnect(listen)
    now = entry_of(ledger, entry.key)
    assert (now.status, now.audit[0].actor, now.audit[0].reason) == (status, "ann", "ticket 5")
    assert LogicalEmail.objects.get().status == status.value
    assert heard == [entry.key]
    assert (f"When task {entry.owner} is delivered again" in run("show", entry.key)) == (status is Status.SENT)
    (data,) = json.loads(run("show", entry.key, "--json"))
    assert data["unfinished"] == LogicalEmail.objects.get().unfinished == (status is Status.SENT)
    error = refused("resolve", entry.key, verdict, *WHY)
    assert error.returncode == 1
    assert "is not in doubt" in str(error)


def test_reopen_cancel_release(ledger: Ledger, app: Celery) -> None:
    """One after the other, each with its audit; several keys at once."""
    keys = [made(ledger, claimant(app, n, f"task-{n}")).key for n in (1, 2)]
    assert run("reopen", *keys, *WHY).count("now released") == 2
    assert json.loads(run("cancel", keys[0], *WHY, "--json")) == [
        {"key": keys[0], "status": "cancelled", "generation": 2}
    ]
    who = replace(claimant(app, 2), task_id="new")
    waiting = hold(ledger, ledger.claim(who, POLICY).entry, policy=POLICY).release(retry_in=900)
    factory.get_ledger().show(waiting)
    run("release", "new", *WHY)
    now = entry_of(ledger, keys[1])
    assert (now.status, now.deadline) == (Status.RELEASED, None)
    assert [one.action for one in now.audit] == ["reopened", "released"]
    shown = run("show", keys[1])
    assert "reopened" in shown
    assert "ticket 5" in shown


def test_nothing_is_changed_if_one_of_the_keys_is_unknown(ledger: Ledger, app: Celery) -> None:
    """All are found before the first is changed."""
    key = made(ledger, claimant(app)).key
    refused("reopen", key, "unknown", *WHY)
    assert entry_of(ledger, key).generation == 1


def test_a_name_for_several_changes_none(ledger: Ledger, app: Celery) -> None:
    """They are listed instead."""
    keys = [made(ledger, claimant(app, n, f"task-{n}")).key for n in (1, 2)]
    error = str(refused("reopen", "<m@shop>", *WHY))
    assert all(key in error for key in keys)
    assert [entry_of(ledger, key).generation for key in keys] == [1, 1]


def test_what_is_running_is_refused(ledger: Ledger, app: Celery) -> None:
    """With the time that is left."""
    entry = ledger.claim(claimant(app), POLICY).entry
    assert "by the store's clock" in str(refused("cancel", entry.key, *WHY))
