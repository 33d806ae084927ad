"""All the ways to call a task: what is the same email has one key, and headers do not lie about it."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore
from kombu.utils import json

from celery_idempotent import IdempotentEmailTask, IdempotentTask, KeyFieldError, LedgerUnavailable, Status
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.email_types.job_note import JobNote
from celery_idempotent.email_types.problems import problems
from celery_idempotent.execution.results import dump
from celery_idempotent.execution.run import current_run
from celery_idempotent.ledger.addresses import recipient
from celery_idempotent.tasks.idempotent import CeleryCall

app = Celery("calls", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.fixture(autouse=True)
def _eager(memory_ledger: Any) -> Iterator[None]:
    """Tasks run at once, on an empty ledger."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def test_headers_that_a_body_forwards_do_not_carry_its_key_along() -> None:
    """As tracing does: the key in a header is another task's, and order 2 is sent."""
    ran = []

    @app.task(base=IdempotentTask, key_fields=("n",), name="forwarding", bind=True)
    def forwarding(self: Any, n: int) -> None:
        ran.append(n)
        if n == 1:
            self.apply_async((2,), headers=self.request.headers)

    forwarding.apply_async((1,))
    assert ran == [1, 2]


def test_a_body_that_calls_its_own_task() -> None:
    """A direct call inside a body is a call of its own, with its own key and task id."""
    ran = []

    @app.task(base=IdempotentTask, key_fields=("n",), name="calling-itself", bind=True)
    def calling(self: Any, n: int) -> int:
        ran.append((n, self.request.id.startswith("direct-")))
        return n + (self(2) if n == 1 else 0)

    assert calling.delay(1).get() == 3
    assert ran == [(1, False), (2, True)]
    assert calling.delay(2).get() == 2
    assert len(ran) == 2


def test_tasks_that_call_each_other() -> None:
    """P2: deep in its own body, a task is called for another email, which has its own key and is sent."""
    ran = []

    @app.task(base=IdempotentTask, key_fields=("n",), name="calling-there")
    def there(n: int) -> list[Any]:
        ran.append(("there", n))
        return ["there", n, back(n)]

    @app.task(base=IdempotentTask, key_fields=("n",), name="calling-back")
    def back(n: int) -> list[Any]:
        ran.append(("back", n))
        return ["back", n, there(n + 1) if n < 2 else None]

    assert there.delay(1).get() == ["there", 1, ["back", 1, ["there", 2, ["back", 2, None]]]]
    assert ran == [("there", 1), ("back", 1), ("there", 2), ("back", 2)]
    assert there.entry_for(2).status is Status.SENT


def test_a_before_start_of_the_projects_own() -> None:
    """Without ``super()`` the claim is made a moment later, under the same task id."""

    class Base(IdempotentTask):
        abstract = True

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            """Do something else."""

    ran = []

    @app.task(base=Base, key_fields=("n",), name="own-before-start", bind=True)
    def own(self: Any, n: int) -> None:
        ran.append(self.request.id)

    results = [own.delay(1) for _ in range(2)]
    assert ran == [results[0].id]


def test_a_body_that_replaces_itself_has_done_its_work() -> None:
    """`Task.replace` ends a body by `Ignore`: a duplicate does not run it once more."""
    ran = []

    @app.task(base=IdempotentTask, key_fields=("n",), name="replaced", bind=True)
    def replaced(self: Any, n: int) -> None:
        ran.append(n)
        raise Ignore("Replaced by new task")

    for _ in range(2):
        replaced.delay(1)
    assert ran == [1]
    assert replaced.entry_for(1).status is Status.SENT


def test_an_email_body_that_gave_up_without_sending_can_be_asked_again(tracked: None) -> None:
    """Nothing went out, so nothing is done."""

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="ignored")
    def ignored(n: int) -> None:
        raise Ignore

    ignored.delay(1)
    assert ignored.entry_for(1).status is Status.RELEASED


def test_a_swallowed_stop_is_not_made_good_by_ignore(
    tracked: None, monkeypatch: Any, memory_ledger: Any
) -> None:
    """A ledger that was down in the middle is not a body that has done its work."""

    @app.task(base=IdempotentEmailTask, key_fields=("n",), name="swallowed-and-ignored")
    def swallowed(n: int) -> None:
        run = current_run()
        assert run is not None
        run.stopped_by = LedgerUnavailable("down")
        raise Ignore

    assert isinstance(swallowed.delay(1).result, LedgerUnavailable)
    assert swallowed.entry_for(1).status is Status.CLAIMED


class Kind(str, enum.Enum):
    """Text to everybody but its own class."""

    SMS = "sms"


@pytest.mark.parametrize("value", [Kind.SMS, {1: 2}, (1, 2)])
def test_the_worker_sees_what_the_publisher_saw(value: Any) -> None:
    """A message goes through JSON; a key that is computed after it is the same."""

    @app.task(base=IdempotentTask, key_fields=("value",), name=f"through-json-{value}")
    def through(value: Any) -> None: ...

    assert through.key_for(value) == through.key_for(json.loads(json.dumps(value)))


def test_keywords_that_run_does_not_name() -> None:
    """``**kwargs`` can hold key fields."""

    @app.task(base=IdempotentTask, key_fields=("order_id",), name="catch-all")
    def catch_all(**kwargs: Any) -> None: ...

    assert not list(problems(email_type_of(catch_all)))
    assert catch_all.key_for(order_id=1, more=2) == catch_all.key_for(order_id=1)
    with pytest.raises(KeyFieldError, match="missing"):
        catch_all.key_for(more=2)


@pytest.mark.parametrize("value", [None, ""])
def test_a_key_field_without_a_value(value: Any) -> None:
    """The id of an unsaved order would make all such calls one email."""

    @app.task(base=IdempotentTask, key_fields=("order_id",), name=f"without-{value}")
    def without(order_id: Any) -> None: ...

    with pytest.raises(KeyFieldError, match=r"without-.*: key field 'order_id'.*identifies nothing"):
        without.delay(value)


def test_addresses_in_key_fields_are_one_and_masked() -> None:
    """With or without a display name; the label, which travels in messages, never shows them."""

    @app.task(base=IdempotentTask, key_fields=("order", "to"), name="addressed")
    def addressed(order: Any, to: Any) -> None: ...

    assert addressed.key_for(1, "Ann <ann@example.com>") == addressed.key_for(1, "ANN@example.com")
    nested = {"id": 1, "email": "secret.person@example.com"}
    label = addressed._identify((nested, ["Ann <secret.person@example.com>"]), {}).label
    assert "secret.person@" not in label
    assert "s***@example.com" in label


def test_with_digest_a_label_shows_nothing_of_an_address(settings: Any) -> None:
    """The beginning of its digest stands for it, as everywhere else; the key is the same."""

    @app.task(base=IdempotentTask, key_fields=("order", "to"), name="digested")
    def digested(order: Any, to: Any) -> None: ...

    call = ({"email": "Ann.Person@Example.com"}, ["Bob <bob@example.org>"])
    masked = digested._identify(call, {})
    settings.CELERY_IDEMPOTENT |= {"RECIPIENTS": "digest"}
    found = digested._identify(call, {})
    ann, bob = (
        recipient(address, settings.SECRET_KEY, "digest").digest[:12]
        for address in ("ann.person@example.com", "bob@example.org")
    )
    assert found.label == f"order={{'email': '{ann}'}}, to=['{bob}']"
    assert (found.key, found.fingerprint) == (masked.key, masked.fingerprint)


def test_a_long_outage_does_not_overflow() -> None:
    """After any number of waits the pause is five minutes."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="waiting")
    def waiting(n: int) -> None: ...

    note = {**JobNote.of(waiting._identify((1,), {}), "x").to_carry(), "waits": 5000}
    waiting.push_request(id="x", headers={"celery_idempotent": note})
    try:
        assert CeleryCall(waiting, "x", (1,), {}).backoff() == 300
    finally:
        waiting.pop_request()


@pytest.mark.parametrize("result", [float("nan"), float("inf"), "a\x00b", ["\ud800"]])
def test_results_that_only_python_calls_json(result: Any, caplog: Any) -> None:
    """No database keeps them, so duplicates get None, and the send stands."""
    assert dump(result, "odd") is None
    assert "duplicates get None" in caplog.text


def test_text_that_looks_like_an_escape_is_kept() -> None:
    """Only a real NUL is one."""
    assert dump(r"a\u0000b", "odd") == r"a\u0000b"


def test_mended_content_after_a_failure() -> None:
    """Nobody has got the first one, so ``on_mismatch="raise"`` has nothing to protect."""

    @app.task(base=IdempotentTask, key_fields=("n",), name="mended", on_mismatch="raise")
    def mended(n: int, content: str) -> str:
        if content == "bad":
            raise ValueError
        return content

    assert mended.delay(1, "bad").state == "FAILURE"
    assert mended.delay(1, "good").get() == "good"
