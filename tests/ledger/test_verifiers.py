"""A verifier is a project's own code: what it gets wrong sends no mail twice, and stops nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from celery_idempotent import IdempotentTask
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.email_types.problems import problems
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Held
from celery_idempotent.ledger.policy import Verdict
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.operations import sweep
from celery_idempotent.testing import hold
from tests.ledger.entry_stages import POLICY, TWO, doubtful

app = Celery("verifiers", broker="memory://", backend="cache+memory://", set_as_current=False)
ANSWERS: dict[str, Any] = {}


@app.task(base=IdempotentTask, key_fields=("n",), name="answered", in_doubt=lambda entry: ANSWERS[entry.key])
def answered(n: int) -> None: ...


NO_VERDICTS = (None, True, False, "sent", Status.SENT, DeliveryStatus.ACCEPTED)


@pytest.mark.parametrize("said", NO_VERDICTS, ids=repr)
def test_what_is_no_verdict_is_unknown_to_a_claim(ledger: Ledger, said: Any, caplog: Any) -> None:
    """P1: `Status.SENT` is not "not sent", nor does a forgotten ``return`` fail the task with a riddle."""
    doubtful(ledger)
    outcome = ledger.claim(TWO, replace(POLICY, in_doubt=lambda entry: said))
    assert isinstance(outcome, Held)
    assert outcome.entry.deliveries[0].status is DeliveryStatus.IN_DOUBT
    assert "the verifier of mail returned a " in caplog.text


@pytest.mark.parametrize("said", NO_VERDICTS, ids=repr)
def test_what_is_no_verdict_stops_no_sweep(memory_ledger: Any, said: Any) -> None:
    """The entry stays in doubt, and those behind it are settled."""
    for key, verdict in (("k", said), ("l", Verdict.SENT)):
        ANSWERS[key] = verdict
        claimant = replace(TWO, key=key, email_type="answered")
        entry = memory_ledger.claim(claimant, replace(POLICY, opaque=True)).entry
        hold(memory_ledger, entry).doubt("x")
    one = sweep.Sweep(memory_ledger, app=app)
    one._found = ["k", "l"]
    one.settle_doubts()
    assert (one.done.unknown, one.done.sent, one.done.not_sent) == (1, 1, 0)
    assert memory_ledger.store.get("k").entry.status is Status.IN_DOUBT


async def _asked(entry: Any) -> Verdict:
    return Verdict.SENT


def test_a_verifier_that_cannot_be_asked_is_found_by_the_check() -> None:
    """A coroutine function answers nobody who does not await it."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="asked-async", in_doubt=_asked)
    def task(n: int) -> None: ...

    ((option, text),) = problems(email_type_of(task))
    assert (option, "plain function" in text) == ("in_doubt", True)
