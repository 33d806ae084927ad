"""What Celery's own retries leave alone, whatever a task declares: a doubt, and a refusal for good."""

from __future__ import annotations

from typing import Any

import pytest
from celery.signals import task_retry

from celery_idempotent import DeliveryInDoubt, RecipientsRefused
from tests.mail.bodies import message, run, task
from tests.support.mailserver import DROP_AFTER_ACCEPT, ScriptedSMTP


@pytest.mark.parametrize(
    ("dot", "error"), [(DROP_AFTER_ACCEPT, DeliveryInDoubt), ("550 no", RecipientsRefused)]
)
def test_it_is_the_tasks_end_at_once(settings: Any, dot: str, error: type[Exception]) -> None:
    """A retry could only meet the same record again."""
    retried: list[Any] = []

    @task(f"ended-by-{error.__name__}", autoretry_for=(Exception,), default_retry_delay=0, max_retries=3)
    def ended(n: int) -> None:
        message().send()

    def note(reason: Any, **_: Any) -> None:
        retried.append(reason)

    task_retry.connect(note, sender=ended)
    with ScriptedSMTP(dot=dot) as server:
        assert type(run(server, settings, ended).result) is error
    assert retried == []
