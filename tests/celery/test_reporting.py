"""Signals, the result's meta and the log: every outcome is told, and telling changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import DeliveryInDoubt, IdempotentTask, signals
from celery_idempotent.testing import hold

app = Celery("reporting", broker="memory://", backend="cache+memory://", set_as_current=False)
NAMES = [
    "email_claimed",
    "email_sent",
    "email_failed",
    "email_in_doubt",
    "email_released",
    "duplicate_suppressed",
    "claim_lost",
]


@app.task(
    bind=True, base=IdempotentTask, key_fields=("n",), name="told", in_doubt_for=(TimeoutError,), max_retries=1
)
def told(self: Any, n: int, how: str = "") -> str:
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    if how == "fail":
        raise ValueError
    if how == "doubt":
        raise TimeoutError
    if how == "lose":
        from celery_idempotent.execution.run import current_run
        from celery_idempotent.ledger.policy import Claimant, Policy

        run = current_run()
        assert run is not None
        hold(run.ledger, run.entry, policy=run.policy).release()
        run.ledger.claim(Claimant(run.claimant.key, "told", "other"), Policy())
    return "ok"


@pytest.fixture
def heard(memory_ledger: Any) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What the signals said."""
    heard: list[tuple[str, dict[str, Any]]] = []
    listeners = {name: lambda name=name, **said: heard.append((name, said)) for name in NAMES}
    for name, listener in listeners.items():
        getattr(signals, name).connect(listener, sender=None, weak=False)
    yield heard
    for name, listener in listeners.items():
        getattr(signals, name).disconnect(listener)


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ("", ["email_claimed", "email_sent"]),
        ("fail", ["email_claimed", "email_failed"]),
        ("doubt", ["email_claimed", "email_in_doubt"]),
        ("retry", ["email_claimed", "email_released", "email_claimed", "email_sent"]),
        ("lose", ["email_claimed", "claim_lost"]),
    ],
)
def test_each_outcome_has_its_signal(heard: Any, how: str, names: list[str]) -> None:
    """With the task as sender, the entry as it stands, and the task id."""
    result = told.apply((1, how))
    assert [name for name, _ in heard] == names
    for _, said in heard:
        assert said["sender"].name == "told"
        assert said["entry"].key == told.key_for(1)
        assert said["task_id"]
    if how == "lose":
        assert heard[-1][1]["owner"] == "other"
        assert "ClaimLost" in repr(result.result)


def test_a_duplicate_names_the_first_task(heard: Any) -> None:
    """Who sent it is what people ask next."""
    first = told.apply((1,))
    told.apply((1,))
    name, said = heard[-1]
    assert (name, said["first_task_id"]) == ("duplicate_suppressed", first.id)


def test_a_receiver_that_raises_changes_nothing(memory_ledger: Any, caplog: Any) -> None:
    """It is logged; the email is sent all the same."""

    def broken(**_: Any) -> None:
        raise RuntimeError("broken receiver")

    signals.email_sent.connect(broken)
    try:
        assert told.apply((1,)).get() == "ok"
    finally:
        signals.email_sent.disconnect(broken)
    assert "broken receiver" in caplog.text


def test_held_emails_are_logged(heard: Any, caplog: Any) -> None:
    """A claim that has to wait for a decision says so."""
    told.apply((1, "doubt"))
    assert isinstance(told.apply((1,)).result, DeliveryInDoubt)
    assert "held in doubt" in caplog.text
