"""``allow_send``: a rule of the project's own that lets one more mail out, and only one."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_idempotent import IdempotentTask
from celery_idempotent.contrib import rq
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.email_types.problems import problems

app = Celery("allow-send", broker="memory://", backend="cache+memory://", set_as_current=False)


def test_the_rule_of_a_task(memory_ledger: Any) -> None:
    """It sees the call's own arguments, and dedupe_on_publish asks it too."""
    seen = []

    def rule(entry: Any, request: Any) -> bool:
        seen.append((request.args, dict(request.kwargs)))
        return bool(request.kwargs.get("force"))

    @app.task(
        base=IdempotentTask, key_fields=("n",), name="ruled", allow_send=rule, dedupe_on_publish=True, bind=True
    )
    def ruled(self: Any, n: int, force: bool = False) -> str:
        return str(self.request.id)

    first = ruled.apply((1,), task_id="one")
    app.backend.store_result("one", "one", "SUCCESS")
    assert ruled.delay(1).id == first.id
    assert ruled.apply_async((1,), {"force": True}).id != first.id
    assert ruled.apply((1,), {"force": True}, task_id="two").get() == "two"
    assert ruled.apply((1,), {"force": True}, task_id="two").get() == "two"
    assert ruled.apply((1,), {"force": True}, task_id="one").get() == "two"
    assert ruled.entry_for(1).generation == 2  # type: ignore[union-attr]
    assert ((1,), {"force": True}) in seen


def test_the_rule_of_a_function(memory_ledger: Any) -> None:
    """The same option, for other queues."""
    ran = []

    @rq.idempotent(key_fields=("n",), allow_send=lambda entry, request: request.args == (1, True))
    def function(n: int, force: bool = False) -> None:
        ran.append(n)

    for args in ((1,), (1,), (1, True)):
        function(*args)
    assert ran == [1, 1]


async def _late(entry: Any, request: Any) -> bool:
    return True


@pytest.mark.parametrize("rule", ["always", lambda entry: True, _late], ids=["text", "one argument", "async"])
def test_a_rule_that_cannot_be_called(rule: Any) -> None:
    """The system check names the option."""

    @app.task(base=IdempotentTask, key_fields=("n",), name=f"bad-rule-{rule!r}", allow_send=rule)
    def bad(n: int) -> None: ...

    assert [name for name, _ in problems(email_type_of(bad))] == ["allow_send"]
