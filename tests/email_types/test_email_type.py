"""An email type is computed once, and again when its task has changed."""

from __future__ import annotations

import gc
import weakref
from itertools import count
from typing import Any
from unittest import mock

import pytest
from celery import Celery

from celery_idempotent import IdempotentTask
from celery_idempotent.email_types import email_type
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.email_types.options import Options
from celery_idempotent.email_types.problems import misspelt, problems

_numbers = count()


def declare(**options: Any) -> Any:
    """Return a task of an app of its own."""
    app = Celery("email-types", broker="memory://", set_as_current=False)

    @app.task(
        base=IdempotentTask, key_fields=("order",), name=f"typed-{next(_numbers)}", shared=False, **options
    )
    def typed(order: int) -> None: ...

    return app.tasks[typed.name]


@pytest.fixture
def task() -> Any:
    """A task without further options."""
    return declare()


def test_it_knows_every_option() -> None:
    """An option that is added to one of the two alone would be read by nobody."""
    assert {"email_type", *email_type._DECLARED} == set(Options.__annotations__)


def test_it_is_the_same_as_long_as_its_task_is(task: Any) -> None:
    """Policies and signatures are computed once per task, not per call."""
    assert email_type_of(task) is email_type_of(task)
    before = email_type_of(task)
    task.lease = 7.0
    assert email_type_of(task) is not before
    assert email_type_of(task).lease == 7.0


def test_a_mock_of_the_body_is_forgotten_with_it(task: Any) -> None:
    """A user's test puts one in place of ``run``: its parameters are none of the task's."""
    with mock.patch.object(task, "run"):
        under = task.key_for(order=1)
    assert task.key_for(order=1) == task.key_for(1) == under


def test_a_body_that_is_replaced_has_its_own_parameters(task: Any) -> None:
    """Also where the options stay as they were."""
    key = task.key_for(order=1)
    task.run = lambda order, to: None
    assert task.key_for(order=1, to="ann@example.com") == key


@pytest.mark.parametrize(("option", "right", "wrong"), [("dedupe_on_publish", False, 0), ("lease", 1, True)])
def test_a_wrong_type_of_an_equal_value_is_found(option: str, right: Any, wrong: Any) -> None:
    """Python says that 0 is False and 1 is True; an option's check does not."""
    task = declare(**{option: right})
    assert not list(problems(email_type_of(task)))
    setattr(task, option, wrong)
    assert [found for found, _ in problems(email_type_of(task))] == [option]


class Equal:
    """A rule that claims to be every other one."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 0

    def __call__(self, entry: Any, request: Any) -> bool:
        return self.answer


def test_a_rule_that_equals_the_one_before_takes_its_place() -> None:
    """A rule may compare as it likes: another object is another rule."""
    task = declare(allow_send=Equal(False))
    assert email_type_of(task).policy(False).allow_send.answer is False  # type: ignore[union-attr]
    task.allow_send = Equal(True)
    assert email_type_of(task).policy(False).allow_send.answer is True  # type: ignore[union-attr]


def test_a_task_that_compares_by_value() -> None:
    """A project's task class may define ``__eq__`` alone, and is not hashable then."""

    class Own(IdempotentTask):
        name = f"typed-{next(_numbers)}"
        key_fields = ("order",)

        def run(self, order: int) -> None: ...

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

    task: Any = Celery("equal", broker="memory://", set_as_current=False).register_task(Own())
    assert task.key_for(1) == task.key_for(order=1)


def test_a_task_is_forgotten_with_its_app() -> None:
    """A rule as a class attribute comes back bound to its task: what keeps it must not keep the task."""
    task = declare(allow_send=lambda entry, request: True)
    email_type_of(task)
    gone, app = weakref.ref(task), task.app
    app.close()
    app.tasks.clear()
    del app, task
    gc.collect()
    assert gone() is None


def test_attributes_of_a_users_own_are_no_misspelt_options() -> None:
    """``name`` and ``run`` are no options, so ``names`` and ``runs`` are near to none."""

    class Own(IdempotentTask):
        name = f"typed-{next(_numbers)}"
        key_fields = ("order",)
        names = ("ann", "bob")
        runs = 3
        leese = 60

        def run(self, order: int) -> None: ...

    task = Celery("attributes", broker="memory://", set_as_current=False).register_task(Own())
    assert list(misspelt(task, IdempotentTask)) == [("leese", "lease")]
