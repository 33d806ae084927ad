"""A user's own test suite. `test_under_django_tests` runs it on each database; pytest does not collect it."""

from __future__ import annotations

from typing import Any

from celery import Celery
from django.core import mail
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from celery_idempotent import IdempotentEmailTask, Status
from celery_idempotent.models import LogicalEmail, OutboxMessage

app = Celery("users", broker="memory://", set_as_current=False)
app.conf.task_always_eager = True


@app.task(base=IdempotentEmailTask, key_fields=("order",), name="users.confirm")
def confirm(order: int, fail: bool = False) -> str:
    with transaction.atomic():
        mail.send_mail("Your order", "text", None, ["ann@example.com"])
        if fail:
            raise ValueError
    return "sent"


class Checks:
    """With Django's locmem backend in place of ours, and with ours around locmem."""

    def assert_sends_once(self: Any) -> None:
        assert [confirm.delay(1).get() for _ in range(3)] == ["sent"] * 3
        assert len(mail.outbox) == 1
        assert LogicalEmail.objects.get().status == Status.SENT

    def test_with_djangos_own_outbox(self) -> None:
        self.assert_sends_once()

    @override_settings(
        EMAIL_BACKEND="celery_idempotent.mail.EmailBackend",
        CELERY_IDEMPOTENT={"EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"},
    )
    def test_with_our_backend_around_it(self) -> None:
        self.assert_sends_once()
        assert LogicalEmail.objects.get().deliveries.get().status == "accepted"


class InATransaction(Checks, TestCase):
    """Django's TestCase: everything on the connection of the test."""

    def test_in_an_atomic_block(self) -> None:
        with transaction.atomic():
            self.assert_sends_once()

    def test_on_commit(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            confirm.delay_on_commit(1)
        assert len(mail.outbox) == 1

    def test_through_the_outbox(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                confirm.enqueue(1)
                confirm.enqueue_many([(1,), (2,)])
            assert OutboxMessage.objects.count() == 3
            assert mail.outbox == []
        assert len(mail.outbox) == 2
        assert not OutboxMessage.objects.exists()

    def test_each_test_starts_empty(self) -> None:
        assert not LogicalEmail.objects.exists()


class WithRealCommits(Checks, TransactionTestCase):
    """Django's TransactionTestCase forbids connections that it does not list."""

    def test_through_the_outbox(self) -> None:
        with transaction.atomic():
            confirm.enqueue(1)
            assert mail.outbox == []
        assert len(mail.outbox) == 1
        with transaction.atomic():
            confirm.enqueue(2)
            transaction.set_rollback(True)
        assert len(mail.outbox) == 1
        assert not OutboxMessage.objects.exists()
