"""One walk: a task that sends, against a server with a script; and what holds however it went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from smtplib import SMTPException
from typing import Any

from celery import Celery
from django.core.mail import EmailMessage

from celery_idempotent import DeliveryInDoubt, IdempotentEmailTask, RecipientsRefused, Status
from celery_idempotent.conf import conf
from celery_idempotent.ledger.addresses import recipient
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail.smtp.connections import pool
from tests.support.mailserver import (
    Answer,
    ScriptedSMTP,
)

app = Celery("walk", broker="memory://", backend="cache+memory://", set_as_current=False)
RETRY: dict[str, Any] = {
    "autoretry_for": (SMTPException, OSError),
    "max_retries": 20,
    "default_retry_delay": 0,
}


@app.task(base=IdempotentEmailTask, key_fields=("n",), name="walked", on_mismatch="ignore", **RETRY)
def walked(n: int, to: list[str]) -> str:
    EmailMessage("Hi", "text\n.dot\n", to=to[:1], cc=to[1:2], bcc=to[2:]).send()
    return "sent"


@dataclass
class Case:
    """One walk: what the server says, to how many, and whether the mail's fate can get lost on the way."""

    many: int
    script: dict[str, Answer] = field(default_factory=dict)
    may_be_lost: bool = False
    earlier: bool = False
    """Send something else before, so that there is a connection to use again."""
    stalls: bool = False
    reuse: bool = True
    retry: bool = True


def walk(case: Case, settings: Any) -> tuple[Any, ScriptedSMTP, Any]:
    """Run the task with its retries to the end; return its result, the server, and the entry."""
    people = [f"r{n}@example.com" for n in range(case.many)]
    settings.EMAIL_TIMEOUT = 0.2 if case.stalls else 20
    walked.send_timeout = 0.5 if case.stalls and case.may_be_lost else 60.0  # or a slow reply would be lost too
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 30 if case.reuse else 0}
    try:
        with ScriptedSMTP(**case.script) as server:
            settings.EMAIL_PORT = server.port
            if case.earlier:
                assert walked.apply((0, people)).get() == "sent"
                server.accepted.clear()
            result = walked.apply((1, people), retries=0 if case.retry else RETRY["max_retries"])
            pool.close()
    finally:
        walked.send_timeout = 60.0
    return result, server, walked.entry_for(1, people)


def assert_as_the_replies_say(
    case: Case, result: Any, server: ScriptedSMTP, entry: Any
) -> dict[DeliveryStatus, set[str]]:
    """Assert what holds however it went: nobody twice, nobody lost, doubt only where a reply was lost."""
    served = Counter(address for received in server.accepted for address in received.recipients)
    assert not served or max(served.values()) == 1, "P1: nobody twice"
    digests = {d.recipient.digest: d.status for d in entry.deliveries}
    by_status: dict[DeliveryStatus, set[str]] = {status: set() for status in DeliveryStatus}
    for address in (f"r{n}@example.com" for n in range(case.many)):
        by_status[digests[recipient(address, conf.recipient_salt, "digest").digest]].add(address)
    accepted, doubtful = by_status[DeliveryStatus.ACCEPTED], by_status[DeliveryStatus.IN_DOUBT]
    assert accepted <= set(served), "what is on record as accepted is there"
    assert set(served) <= accepted | doubtful, "what is there is on record"
    assert not by_status[DeliveryStatus.SENDING] | by_status[DeliveryStatus.DEFERRED], "retried to the end"
    if not case.may_be_lost:
        assert not doubtful, "doubt only after the dot"
    if doubtful:
        assert isinstance(result.result, DeliveryInDoubt)
        assert entry.status is Status.IN_DOUBT
    elif by_status[DeliveryStatus.REFUSED]:
        assert isinstance(result.result, RecipientsRefused)
    else:
        assert result.get() == "sent"
    headers = [received.headers for received in server.accepted]
    assert len({(h["Message-ID"], h["Date"], h["To"], h["Cc"]) for h in headers}) <= 1
    assert not any(h["Bcc"] for h in headers)
    return by_status
