"""A project that uses every public door, as strictly typed as it can be: no type checker finds anything here.

`test_typing` checks this file, and nobody runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from uuid import UUID

from celery import shared_task
from celery.canvas import Signature
from celery.result import AsyncResult
from django.core.mail import EmailMessage
from django_tasks import task
from django_tasks.base import TaskResult
from redis import Redis
from rq import Queue
from typing_extensions import assert_type

from celery_idempotent import (
    DeliveryInDoubt,
    Entry,
    IdempotentEmailTask,
    IdempotentTask,
    KeyFieldError,
    SendRequest,
    Status,
    Store,
    Verdict,
    forget,
    purge,
    sweep,
)
from celery_idempotent.contrib import django_tasks as on_django
from celery_idempotent.contrib import rq as on_rq
from celery_idempotent.mail.providers import Deduplication, Sign, as_uuid
from celery_idempotent.signals import email_sent
from celery_idempotent.stores import Attempt, Delivery, DeliveryStatus, Stored
from celery_idempotent.testing import FakeClock, StoreConformance, fresh_ledger, make_entry

CELERY_IDEMPOTENT = {
    "LEDGER": "right_uses.OwnStore",
    "PROVIDER": "right_uses.PROVIDER",
    "RETENTION": timedelta(days=90),
}


# -- rules and verifiers -------------------------------------------------------------------------------------


def look_up(entry: Entry) -> Verdict:
    """A verifier."""
    accepted = [one for one in entry.deliveries if one.status is DeliveryStatus.ACCEPTED]
    return Verdict.SENT if accepted else Verdict.UNKNOWN


def after_a_day(entry: Entry, request: SendRequest) -> bool | None:
    """A rule for sending again."""
    sent_at = entry.sent_at  # an `After` is what a ledger gives to a store; a rule sees none
    return isinstance(sent_at, datetime) and request.now - sent_at > timedelta(days=1)


# -- Celery --------------------------------------------------------------------------------------------------


@shared_task(
    base=IdempotentEmailTask,
    key_fields=("order_id", "to"),
    window=timedelta(days=1),
    in_doubt=look_up,
    autoretry_for=(OSError,),
)
def order_confirmation(order_id: int, to: str) -> str:
    EmailMessage("Your order", "…", to=[to]).send()
    return "sent"


@shared_task(bind=True, base=IdempotentEmailTask, key_fields=("order_id",), max_retries=3)
def bound_confirmation(self: IdempotentEmailTask, order_id: int) -> None:
    raise self.retry(countdown=5.0)


class Reminder(IdempotentEmailTask):
    """Options as attributes: those are checked."""

    name = "shop.reminder"
    key_fields = ("order_id",)
    window = timedelta(hours=1)
    window_mode = "fixed"
    event_time_field = "at"
    allow_send = after_a_day
    in_doubt = "resend"
    on_conflict = "skip"
    on_mismatch = "raise"
    fingerprint_fields = ("order_id",)
    lease = 30
    send_timeout = 10.5
    deferred_retries = 0
    dedupe_on_publish = True

    def run(self, order_id: int, at: str) -> None:
        EmailMessage("Do not forget", "…", to=["ann@example.com"]).send()


class Payment(IdempotentTask):
    name = "shop.payment"
    key_fields = ("payment.id",)
    in_doubt_for = (TimeoutError,)
    in_doubt = look_up


def by_celery() -> list[AsyncResult[str]]:
    order_confirmation.delay(7, to="ann@example.com")
    order_confirmation.delay_on_commit(7, to="ann@example.com")
    order_confirmation.apply_async((7, "ann@example.com"), countdown=10, queue="mail")
    order_confirmation.apply_async_on_commit((7, "ann@example.com"), priority=3)
    order_confirmation.resend(7, "ann@example.com", reason="lost by the customer", actor="bob")
    order_confirmation.enqueue(7, "ann@example.com")
    order_confirmation.enqueue_with((7, "ann@example.com"), using="default", queue="mail")
    assert_type(order_confirmation, IdempotentEmailTask)
    assert_type(order_confirmation.key_for(7, to="ann@example.com"), str)
    assert_type(order_confirmation.entry_for(7, to="ann@example.com"), Entry | None)
    signature: Signature[str] = order_confirmation.s(9, "ann@example.com")
    calls: list[object] = [(7, "ann@example.com"), {"order_id": 8, "to": "bob@example.com"}, signature]
    return order_confirmation.enqueue_many(calls, queue="mail")


# -- RQ ------------------------------------------------------------------------------------------------------


@on_rq.idempotent_email(key_fields=("order_id",), window=timedelta(days=1), in_doubt=look_up, lease=30)
def confirm(order_id: int, to: str = "ann@example.com") -> str:
    """A function that keeps its parameters."""
    return to


@on_rq.idempotent(key_fields=("order_id",), on_conflict="raise", in_doubt_for=(TimeoutError,))
async def charge(order_id: int) -> UUID:
    """A coroutine function, which becomes a plain one."""
    return UUID(int=order_id)


def by_rq(connection: Redis) -> None:
    queue = Queue(connection=connection, job_class=on_rq.IdempotentJob)
    queue.enqueue(confirm, 7, to="bob@example.com")  # pyright: ignore[reportUnknownMemberType]  # RQ's own
    assert_type(confirm(7), str)
    assert_type(confirm(order_id=7, to="bob@example.com"), str)
    assert_type(confirm.key_for(7), str)
    assert_type(confirm.entry_for(7, "bob@example.com"), Entry | None)
    assert_type(charge(7), UUID)


# -- Django's task framework ---------------------------------------------------------------------------------


@task
@on_django.idempotent_email(key_fields=("order_id",), allow_send=after_a_day)
def confirmation(order_id: int, to: str = "ann@example.com") -> str:
    """Its ``enqueue`` takes the function's parameters."""
    return to


def charge_key(order_id: int) -> int:
    """Names the event."""
    return order_id


@task(priority=5)
@on_django.idempotent(key_function=charge_key)
async def charging(order_id: int) -> None: ...


def by_django() -> TaskResult[str]:
    charging.enqueue(order_id=7)
    assert_type(confirmation.call(7), str)
    return confirmation.enqueue(7, to="bob@example.com")


# -- a store, a provider, errors, signals, commands, tests ---------------------------------------------------


class OwnStore(Store):
    """Keeps entries in a dict, for one thread."""

    def __init__(self) -> None:
        self.kept: dict[str, Entry] = {}

    def insert(self, entry: Entry, attempt: Attempt | None = None) -> Stored:
        inserted = entry.key not in self.kept
        return Stored(self.kept.setdefault(entry.key, entry), self.now(), inserted)

    def swap(
        self, entry: Entry, version: int, attempt: Attempt | None = None, deliveries: Sequence[Delivery] = ()
    ) -> Stored | None:
        if self.kept[entry.key].version != version:
            return None
        self.kept[entry.key] = entry
        return Stored(entry, self.now())

    def get(self, key: str) -> Stored | None:
        return Stored(self.kept[key], self.now()) if key in self.kept else None

    def due(self, limit: int = 100) -> Sequence[Entry]:
        return [entry for entry in self.kept.values() if entry.status is Status.SENDING][:limit]

    def purge(self, older_than: float, limit: int = 1000, dry_run: bool = False) -> int:
        return 0

    def naming(self, digest: str) -> Iterable[str]:
        return [
            key
            for key, entry in self.kept.items()
            if any(d.recipient.digest == digest for d in entry.deliveries)
        ]

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


class TestOwnStore(StoreConformance):
    """The suite for it."""


PROVIDER = Deduplication(
    "Postbird", "X-Key", seconds=3600, compares_content=False, form=as_uuid, accepted_before=Sign(409, "known")
)


def on_sent(sender: object, entry: Entry, task_id: str, **_: object) -> None:
    print(sender, entry.key, entry.email_type, task_id)


email_sent.connect(on_sent)


def operate() -> int:
    forget("ann@example.com", actor="bob", reason="asked to")
    sweep(limit=10)
    try:
        confirm(7)
    except (DeliveryInDoubt, KeyFieldError) as error:
        print(error)
    clock = FakeClock()
    with fresh_ledger(clock=clock) as ledger:
        clock.forward(10)
        ledger.store.insert(make_entry())
    return purge(timedelta(days=30), dry_run=True)
