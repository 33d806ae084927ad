"""Mistakes of a project, one a line: each line that ends in the word `wrong` has to be found, and no other.

`test_typing` checks this file, and nobody runs it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from celery import shared_task
from django_tasks import task

from celery_idempotent import (
    Entry,
    IdempotentEmailTask,
    SendRequest,
    Store,
    Verdict,
    forget,
    purge,
)
from celery_idempotent.contrib import django_tasks as on_django
from celery_idempotent.contrib import rq as on_rq
from celery_idempotent.mail.providers import Deduplication


def no_verdict(entry: Entry) -> bool:
    return True


def no_rule(entry: Entry) -> bool:
    return True


async def late_verdict(entry: Entry) -> Verdict:
    return Verdict.SENT


# -- Celery: options as attributes ---------------------------------------------------------------------------


class Reminder(IdempotentEmailTask):
    key_fields = "order_id"  # wrong
    email_type = 7  # wrong
    window = 3600  # wrong
    window_mode = "rolling"  # wrong
    event_time_field = ("at",)  # wrong
    allow_send = no_rule  # wrong
    in_doubt = "send"  # wrong
    on_conflict = "wait"  # wrong
    on_mismatch = "fail"  # wrong
    fingerprint_fields = "order_id"  # wrong
    lease = "1 minute"  # wrong
    send_timeout = timedelta(minutes=1)  # wrong
    deferred_retries = None  # wrong
    in_doubt_for = TimeoutError  # wrong
    dedupe_on_publish = "yes"  # wrong
    dont_autoretry_for = (int,)  # wrong


class Doubting(IdempotentEmailTask):
    in_doubt = no_verdict  # wrong


class DoubtingLate(IdempotentEmailTask):
    in_doubt = late_verdict  # wrong


@shared_task(base=IdempotentEmailTask, key_fields=("order_id",))
def confirmation(order_id: int) -> None: ...


@shared_task(base=Store)  # wrong
def by_a_store(order_id: int) -> None: ...


# No type checker finds these: by celery-types, `shared_task` with a ``base`` takes any option, and its task has
# lost the function's parameters. The system checks find the first, and `delay` refuses the second.
@shared_task(base=IdempotentEmailTask, key_fields="order_id")
def by_a_wrong_option(order_id: int) -> None: ...


confirmation.delay(order=7)


confirmation.resend(7, reason="lost")  # wrong
confirmation.enqueue_many(7)  # wrong
confirmation.enqueue_with((7,), using=1)  # wrong
key: int = confirmation.key_for(7)  # wrong
print(confirmation.entry_for(7).status)  # wrong
confirmation.send(7)  # wrong


# -- RQ and Django's task framework: options, and the function's own parameters -------------------------------

on_rq.idempotent_email(key_fields="order_id")  # wrong
on_rq.idempotent_email(key_field=("order_id",))  # wrong
on_rq.idempotent_email(key_fields=("order_id",), window=3600)  # wrong
on_rq.idempotent_email(key_fields=("order_id",), in_doubt=no_verdict)  # wrong
on_rq.idempotent_email(key_fields=("order_id",), allow_send=no_rule)  # wrong
on_rq.idempotent(key_fields=("order_id",), on_conflict="wait")  # wrong
on_rq.idempotent(key_fields=("order_id",), dedupe_on_publish=True)  # wrong
on_django.idempotent_email(key_fields=("order_id",), lease="1 minute")  # wrong
on_django.idempotent(key_fields=("order_id",), in_doubt_for=[TimeoutError])  # wrong
on_django.idempotent("order_id")  # wrong


@on_rq.idempotent_email(key_fields=("order_id",))
def confirm(order_id: int) -> str:
    return "sent"


@on_rq.idempotent(key_fields=("order_id",))
async def charge(order_id: int) -> str:
    return "charged"


@task
@on_django.idempotent_email(key_fields=("order_id",))
def confirming(order_id: int) -> str:
    return "sent"


confirm("seven")  # wrong
confirm(order=7)  # wrong
confirm.key_for()  # wrong
confirm.entry_for(7, 8)  # wrong
confirm.enqueue(7)  # wrong
number: int = confirm(7)  # wrong
charge("seven")  # wrong
confirming.enqueue("seven")  # wrong
confirming.enqueue(order=7)  # wrong
result: int = confirming.call(7)  # wrong


# -- a store, a provider, commands ---------------------------------------------------------------------------


class Answering(Store):
    def get(self, key: str) -> Entry | None:  # wrong
        return None


Store()  # wrong
Deduplication("Postbird", "X-Key")  # wrong
Deduplication("Postbird", "X-Key", seconds="1 hour")  # wrong
Deduplication("Postbird", "X-Key", 3600, accepted_before=409)  # wrong
forget("ann@example.com", actor="bob")  # wrong
purge(30)  # wrong


def rule(entry: Entry, request: SendRequest) -> datetime | None:
    entry.key = "another"  # wrong
    return request.today  # wrong
