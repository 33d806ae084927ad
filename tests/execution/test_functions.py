"""Functions with options, before any queue has them: declared, checked, and called by nobody's queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured

from celery_idempotent import IdempotentTask, InProgress, KeyFieldError, Status, checks
from celery_idempotent.checks import tasks
from celery_idempotent.checks.settings import check_queues
from celery_idempotent.execution.functions import OPTIONS, DirectCall, claim_and_run, declare, known
from celery_idempotent.ledger.policy import Claimant, Policy
from tests.checks.test_checks import ids

app = Celery("functions")


def directly(declared: Any, args: Any, kwargs: Any, body: Any) -> Any:
    return claim_and_run(DirectCall(declared, args, kwargs), body)


def once(**options: Any) -> Any:
    return declare(False, directly, options)


calls: list[Any] = []


@once(key_fields=("order",), email_type="shared-type")
def confirm(order: int, to: str = "ann@example.com") -> dict[str, Any]:
    """Confirm an order."""
    calls.append(order)
    return {"order": order, "to": to}


@once(key_fields=("order",))
async def confirm_async(order: int) -> int:
    calls.append(order)
    return order


@pytest.fixture(autouse=True)
def _empty() -> None:
    calls.clear()


def test_a_function_and_a_task_of_one_email_type_have_the_same_keys(memory_ledger: Any) -> None:
    """The same key means the same email, whoever sends it."""

    @app.task(base=IdempotentTask, key_fields=("order",), email_type="shared-type", name="functions.confirm")
    def task(order: int, to: str = "ann@example.com") -> str:
        return "by the task"

    assert task.key_for(1) == confirm.key_for(order=1)
    assert confirm(1) == {"order": 1, "to": "ann@example.com"}
    assert task(1) == {"order": 1, "to": "ann@example.com"}, "the function's result is replayed"
    assert task.entry_for(1) == confirm.entry_for(1)
    assert confirm.entry_for(1).status is Status.SENT


def test_a_call_by_nobodys_queue_claims_and_replays(memory_ledger: Any) -> None:
    """However often, the body runs once; the function keeps its name, its docs and its signature."""
    assert confirm(2) == confirm(order=2)
    assert calls == [2]
    assert (confirm.__name__, confirm.__doc__) == ("confirm", "Confirm an order.")


def test_a_coroutine_function_becomes_a_plain_one(memory_ledger: Any) -> None:
    """Every worker can run it, and its body is awaited."""
    assert [confirm_async(3), confirm_async(3)] == [3, 3]
    assert calls == [3]


def test_an_error_is_the_callers_and_frees_the_key(memory_ledger: Any) -> None:
    """As with any function."""
    broken = [True]

    @once(key_fields=("order",))
    def fragile(order: int) -> str:
        if broken:
            raise ValueError("not yet")
        return "done"

    with pytest.raises(ValueError, match="not yet"):
        fragile(1)
    assert fragile.entry_for(1).status is Status.FAILED
    broken.clear()
    assert fragile(1) == "done"


def test_a_key_that_somebody_else_works_on_is_the_callers_to_wait_for(memory_ledger: Any) -> None:
    """Nobody would call again, so the error says when to."""
    other = Claimant(confirm.key_for(4), "shared-type", "another")
    memory_ledger.claim(other, Policy(lease=60))
    with pytest.raises(InProgress) as caught:
        confirm(4)
    assert 0 < caught.value.retry_after <= 60
    assert calls == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key_feilds": ("order",)}, "no option 'key_feilds'. Did you mean 'key_fields'"),
        ({"key_fields": ("order",), "colour": "red"}, "no option 'colour'. There are key_fields,"),
        ({"key_fields": ("order",), "dedupe_on_publish": True}, "no option 'dedupe_on_publish'"),
        ({"key_fields": ("too",)}, "key_fields names 'too', which is not a parameter"),
        ({}, "key_fields is empty"),
        ({"key_fields": ("order",), "window": 60}, "window is 60; it has to be a positive timedelta"),
        ({"key_fields": ("order",), "lease": 0}, "lease is 0; it has to be a positive number of seconds"),
    ],
)
def test_options_that_cannot_be_used_are_refused_at_the_decorator(options: Any, text: str) -> None:
    """The message names the function, the option, and what would do."""
    with pytest.raises(ImproperlyConfigured) as caught:

        @once(**options)
        def wrong(order: int) -> None: ...

    assert text in str(caught.value)
    assert "tests.execution.test_functions." in str(caught.value)


def test_every_option_of_a_task_that_makes_sense_is_an_option_of_a_function() -> None:
    """A decorator takes what a task takes, but for how it is published and retried."""
    assert {"key_fields", "key_function", "email_type", "window", "in_doubt", "on_conflict"} <= set(OPTIONS)
    assert not {"dedupe_on_publish", "dont_autoretry_for", "filled_in"} & set(OPTIONS)


def test_a_call_without_its_key_field_names_function_and_field(memory_ledger: Any) -> None:
    """At call time, before anything is claimed."""
    with pytest.raises(KeyFieldError, match=r"tests\.execution\.test_functions\.confirm.*order"):
        confirm()
    with pytest.raises(KeyFieldError, match="'order' is None"):
        confirm(None)


def test_w011_and_w013_look_at_functions_too(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window longer than the retention; and "auto", which another queue's workers may not resolve alike."""

    @once(key_fields=("order",), window=timedelta(days=400))
    def rare(order: int) -> None: ...

    for module in (tasks, checks.settings):
        monkeypatch.setattr(module, "functions", lambda: [rare.declared])
    monkeypatch.setattr(tasks, "tasks", list)
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "LEDGER": "auto"}
    assert ids(tasks.check_windows(None)) == ["W011"]
    assert ids(check_queues(None)) == ["W013"]
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "LEDGER": "database"}
    assert ids(check_queues(None)) == []
    assert rare.declared in known
