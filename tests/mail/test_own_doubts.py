"""A task that comes back for its own doubt is no duplicate that meets another task's work."""

from __future__ import annotations

from typing import Any

import pytest

from celery_idempotent import InProgress, Status
from celery_idempotent.core.outcomes import Verdict
from tests.mail.bodies import message, task
from tests.support.mailserver import DROP, ScriptedSMTP


@pytest.mark.parametrize("on_conflict", ["skip", "raise"])
def test_it_is_not_skipped_before_its_send_deadline(settings: Any, on_conflict: str) -> None:
    """P2, P4: the verifier says that it was not sent, the server may be at it still, and nobody else would."""

    @task(f"own-doubt-{on_conflict}", on_conflict=on_conflict, in_doubt=lambda entry: Verdict.NOT_SENT)
    def own(n: int) -> str:
        message().send()
        return "sent"

    with ScriptedSMTP(dot=[DROP, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        assert own.apply((1,), task_id="one").failed()
        again = own.apply((1,), task_id="one")
    assert own.entry_for(1).status is Status.IN_DOUBT
    assert isinstance(again.result, InProgress), "it succeeded without a mail"
