"""The Celery project that the acceptance tests run in real worker processes."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from smtplib import SMTPException

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from celery import Celery  # noqa: E402
from django.core.mail import EmailMessage  # noqa: E402
from django.db import transaction  # noqa: E402

from celery_idempotent import IdempotentEmailTask, IdempotentTask, Verdict  # noqa: E402
from celery_idempotent.execution import body  # noqa: E402
from tests.acceptance import crash  # noqa: E402
from tests.acceptance.crash import DIRECTORY  # noqa: E402

app = Celery("acceptance")
app.conf.update(
    broker_url=os.environ.get("TEST_BROKER", "memory://"),
    result_backend=os.environ.get("TEST_RESULTS", "django-db"),
    result_extended=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
    task_send_sent_event=False,
    worker_lost_wait=0.1,  # the default waits ten seconds before a killed process counts as lost
)
app.conf.broker_transport_options = json.loads(os.environ.get("TEST_TRANSPORT", "{}"))
app.conf.update(json.loads(os.environ.get("TEST_CONFIG", "{}")))
SEND_TIMEOUT = float(os.environ.get("TEST_SEND_TIMEOUT", "2"))
body.FIRST_DEFERRAL = float(os.environ.get("TEST_FIRST_DEFERRAL", body.FIRST_DEFERRAL))
COMMON = {"base": IdempotentEmailTask, "lease": 2, "send_timeout": SEND_TIMEOUT}


def note(line: str) -> None:
    """Append ``line`` to what the bodies did."""
    with open(f"{DIRECTORY}/bodies", "a", encoding="utf-8") as stream:
        stream.write(f"{line} {os.getpid()}\n")


@app.task(bind=True, key_fields=("order",), email_type="confirmation", **COMMON)
def confirm(self, order: int, to: str = "ann@example.com") -> dict:
    """The plain case."""
    note(f"confirm {order}")
    crash.at("in-body")
    EmailMessage("Your order", f"Order {order}", to=[to]).send()
    crash.at("after-send")
    return {"order": order, "by": self.request.id}


@app.task(
    bind=True,
    key_fields=("order",),
    autoretry_for=(SMTPException, OSError),
    max_retries=4,
    retry_backoff=True,
    retry_backoff_max=1,
    retry_jitter=False,  # a retry without delay may end before Celery has noted that it was begun
    **COMMON,
)
def stubborn(self, order: int, fail_before: int = 0, fail_after: int = 0) -> int:
    """Fails in its first attempts, before or after the send."""
    if self.request.retries < fail_before:
        raise ConnectionError("before the send")
    EmailMessage("Stubborn", f"Order {order}", to=["ann@example.com"]).send()
    if self.request.retries < fail_before + fail_after:
        raise ConnectionError("after the send")
    return self.request.retries


@app.task(key_fields=("order",), autoretry_for=(ValueError,), retry_kwargs={"countdown": 0}, **COMMON)
def in_transaction(order: int) -> str:
    """Sends inside atomic() and raises the first time: the record has to stay."""
    first = not os.path.exists(f"{DIRECTORY}/rolled-back-{order}")
    with transaction.atomic():
        EmailMessage("Atomic", f"Order {order}", to=["ann@example.com"]).send()
        if first:
            open(f"{DIRECTORY}/rolled-back-{order}", "w").close()
            raise ValueError("roll back")
    return "committed"


@app.task(key_fields=("order",), deferred_retries=3, **COMMON)
def announce(order: int) -> str:
    """Goes to three people, and says nothing about retries."""
    note(f"announce {order}")
    people = [f"{name}@example.com" for name in ("ann", "bob", "cat")]
    EmailMessage("Announcement", f"Order {order}", to=people).send()
    return "announced"


def quietly(order: int) -> str:
    """Swallow what goes wrong with the mail."""
    note(f"quietly {order}")
    try:
        EmailMessage("Quiet", f"Order {order}", to=["ann@example.com", "bob@example.com"]).send()
    except OSError:
        note(f"swallowed {order}")
    return "done"


announce_quietly = app.task(key_fields=("order",), deferred_retries=3, name="announce_quietly", **COMMON)(
    quietly
)
announce_quietly_twice = app.task(
    key_fields=("order",),
    autoretry_for=(SMTPException,),
    max_retries=1,
    default_retry_delay=0.1,
    name="announce_quietly_twice",
    **COMMON,
)(quietly)


@app.task(
    key_fields=("order",), autoretry_for=(SMTPException,), max_retries=1, default_retry_delay=0.1, **COMMON
)
def announce_once_more(order: int) -> str:
    """Declares its own retries."""
    note(f"announce {order}")
    EmailMessage("Announcement", f"Order {order}", to=["ann@example.com"]).send()
    return "announced"


@app.task(key_fields=("order",), autoretry_for=(SMTPException,), max_retries=0, **COMMON)
def announce_just_once(order: int) -> str:
    """Declares that it has none."""
    EmailMessage("Announcement", f"Order {order}", to=["ann@example.com"]).send()
    return "announced"


@app.task(
    bind=True,
    key_fields=("order",),
    deferred_retries=3,
    autoretry_for=(LookupError,),
    max_retries=2,
    default_retry_delay=0.1,
    **COMMON,
)
def announce_after_trouble(self, order: int, troubles: int = 1) -> str:
    """Declares retries for trouble of another kind, which it has at first."""
    note(f"announce {order}")
    if self.request.retries < troubles:
        raise LookupError("no such order yet")
    EmailMessage("Announcement", f"Order {order}", to=["ann@example.com"]).send()
    return "announced"


def by_hand(self, order: int, **retry: object) -> str:
    """Make its own retries of what the mail raises, as Celery's documentation shows it."""
    note(f"announce {order}")
    try:
        EmailMessage("Announcement", f"Order {order}", to=["ann@example.com"]).send()
    except SMTPException as error:
        raise self.retry(exc=error, countdown=0.1, **retry)
    return "announced"


BY_HAND = {"bind": True, "key_fields": ("order",), "deferred_retries": 3, **COMMON}
announce_twice_by_hand = app.task(name="announce_twice_by_hand", max_retries=1, **BY_HAND)(by_hand)
announce_once_by_hand = app.task(name="announce_once_by_hand", max_retries=0, **BY_HAND)(by_hand)


@app.task(max_retries=9, **BY_HAND)
def announce_twice_by_limit(self, order: int) -> str:
    """Gives the limit when it retries."""
    return by_hand(self, order, max_retries=1)


@app.task(max_retries=1, **BY_HAND)
def announce_twice_by_count(self, order: int) -> str:
    """Looks itself whether there is a retry left."""
    note(f"announce {order}")
    try:
        EmailMessage("Announcement", f"Order {order}", to=["ann@example.com"]).send()
    except SMTPException:
        if self.request.retries >= self.max_retries:
            raise
        self.retry(countdown=0.1)
    return "announced"


@app.task(base=IdempotentTask, key_fields=("order",), lease=2, send_timeout=3)
def opaque(order: int, fail: bool = False) -> str:
    """A body that the ledger cannot see into."""
    note(f"opaque {order}")
    crash.at("opaque-body")
    if fail:
        raise ValueError("nothing happened")
    return f"done {order}"


def send(order: int) -> None:
    """Hand one mail over and note it."""
    note(f"send {order}")
    EmailMessage("Your order", f"Order {order}", to=["ann@example.com"]).send()


@app.task(key_fields=("order",), window=timedelta(seconds=2), **COMMON)
def reminder(order: int) -> str:
    """May be sent again two seconds after the last acceptance."""
    send(order)
    return "reminded"


@app.task(key_fields=("order",), window=timedelta(days=1), **COMMON)
def daily(order: int) -> str:
    """May be sent again a day after the last acceptance."""
    send(order)
    return "reminded"


@app.task(key_fields=("order",), in_doubt="resend", **COMMON)
def insistent(order: int) -> str:
    """Would rather be sent twice than not at all."""
    send(order)
    return "sent"


@app.task(key_fields=("order",), in_doubt="resend", **COMMON)
def quietly_insistent(order: int) -> str:
    """The same, with a body that catches what its mail raises."""
    quietly(order)
    return "sent"


@app.task(key_fields=("order", "verdict"), in_doubt=lambda entry: Verdict(entry.label.split("=")[-1]), **COMMON)
def verified(order: int, verdict: str) -> str:
    """Its verifier says what the caller wants it to say."""
    send(order)
    return "sent"


@app.task(bind=True, key_fields=("order",), **COMMON)
def pair(self, order: int) -> dict:
    """Sends two messages to one person."""
    note(f"pair {order}")
    for word in ("first", "second"):
        EmailMessage(f"The {word} of {order}", "Text", to=["ann@example.com"]).send()
    return {"order": order, "by": self.request.id}


@app.task(bind=True, key_fields=("order",), **COMMON)
def dawdling(self, order: int, seconds: float) -> str:
    """Renders for longer than the broker waits."""
    note(f"dawdling {order}")
    time.sleep(seconds)
    EmailMessage("Late", f"Order {order}", to=["ann@example.com"]).send()
    return "sent"


@app.task(key_fields=("order",), **COMMON)
def overtaken(order: int) -> str:
    """Renders until another run of it has begun, which the broker has to see to."""
    note(f"overtaken {order}")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with open(f"{DIRECTORY}/bodies", encoding="utf-8") as stream:
            if stream.read().count(f"overtaken {order} ") >= 2:
                break
        time.sleep(0.1)
    EmailMessage("Late", f"Order {order}", to=["ann@example.com"]).send()
    return "sent"


@app.task(bind=True, key_fields=("order",), **COMMON)
def replacing(self, order: int) -> None:
    """Hands over to another task, which takes its id."""
    note(f"replacing {order}")
    raise self.replace(confirm.s(order))


@app.task(key_fields=("order",), **COMMON)
def failing(order: int) -> None:
    """Sends, and then fails for good."""
    send(order)
    raise ValueError("after the send")


@app.task
def noted(*args: object) -> None:
    """An errback, or a link: says that it was called."""
    note("noted")


@app.task
def collect(values: object) -> object:
    """The next link of a chain, or the body of a chord."""
    return values


@app.task(key_fields=("order",), soft_time_limit=1, time_limit=2, **COMMON)
def slow(order: int) -> str:
    """Runs into the hard time limit before it sends."""
    note(f"slow {order}")
    while not os.path.exists(f"{DIRECTORY}/fast"):
        try:
            time.sleep(0.1)
        except Exception:  # a body that ignores the soft limit
            continue
    EmailMessage("Slow", f"Order {order}", to=["ann@example.com"]).send()
    return "sent"


crash.install()
