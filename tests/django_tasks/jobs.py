"""Functions that the tests of one process make into tasks, of whichever framework is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.core.mail import EmailMessage

from celery_idempotent.contrib.django_tasks import idempotent, idempotent_email

bodies: list[tuple[Any, ...]] = []
"""What ran."""
inside: dict[str, Callable[[], Any]] = {}
"""What a body is to do besides, by order."""
TASKS = [
    "confirm",
    "other",
    "swallowing",
    "with_context",
    "strict",
    "later",
    "unspeakable",
    "charge",
    "retried",
    "not_ours",
]
CONTEXT = {"with_context", "strict"}
"""Tasks that take Django's context."""


def work(order: Any) -> None:
    """Note the run, and do what the test wants done inside it."""
    bodies.append((order,))
    if order in inside:
        inside[order]()


@idempotent_email(key_fields=("order",), lease=30)
def confirm(order: Any, to: str = "ann@example.com") -> dict[str, Any]:
    work(order)
    EmailMessage("Your order", f"Order {order}", to=[to]).send()
    return {"order": order, "run": len(bodies)}


@idempotent_email(key_fields=("order",))
def other(order: Any) -> str:
    work(order)
    EmailMessage("Other", f"Order {order}", to=["bob@example.com"]).send()
    return "other"


@idempotent_email(key_fields=("order",))
def swallowing(order: Any) -> str:
    try:
        EmailMessage("Quiet", f"Order {order}", to=["ann@example.com"]).send()
    except OSError:
        bodies.append((order,))
    return "done"


@idempotent_email(key_fields=("order",))
def with_context(context: Any, order: Any) -> str:
    bodies.append((order, context.task_result.id))
    EmailMessage("Context", f"Order {order}", to=["ann@example.com"]).send()
    return str(context.task_result.id)


@idempotent_email(key_fields=("order",), on_mismatch="raise", email_type="strict")
def strict(context: Any, order: Any, text: str) -> str:
    EmailMessage("Strict", text, to=["ann@example.com"]).send()
    return text


@idempotent_email(key_fields=("order",))
async def later(order: Any) -> str:
    bodies.append((order,))
    await sync_to_async(EmailMessage("Async", f"Order {order}", to=["ann@example.com"]).send)()
    return f"awaited {order}"


@idempotent(key_fields=("order",))
def unspeakable(order: Any) -> Any:
    """Returns what is not JSON."""
    bodies.append((order,))
    return object()


@idempotent(key_fields=("order",), in_doubt_for=(OSError,))
def charge(order: Any) -> str:
    work(order)
    return f"charged {order}"


def again(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call once more after an error, as decorators for retries do."""

    def twice(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError:
            return function(*args, **kwargs)

    vars(twice).update(vars(function))
    twice.__module__, twice.__qualname__ = function.__module__, function.__qualname__
    return twice


@again
@idempotent_email(key_fields=("order",), email_type="retried")
def retried(order: Any) -> str:
    work(order)
    if len(bodies) == 1:
        raise ValueError("the first time")
    EmailMessage("Retried", f"Order {order}", to=["ann@example.com"]).send()
    return "sent"


def not_ours(order: Any) -> Any:
    """A task that is not idempotent, and calls a function that is."""
    return plain_confirm(order)


plain_confirm = confirm
"""The function, while the tests have put tasks in the functions' places."""
