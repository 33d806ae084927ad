"""``EMAIL_BACKEND``: inside an idempotent task every message is written into the ledger, outside it passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.utils import format_datetime
from smtplib import SMTPServerDisconnected
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.utils import DNS_NAME
from django.utils.module_loading import import_string

from ..conf import conf
from ..core.addresses import mask_all, recipient
from ..core.entry import Delivery, Recipient
from ..core.errors import DeliveryInDoubt, RecipientsDeferred, RecipientsRefused
from ..core.ledger import Reply, Target
from ..core.status import DeliveryStatus
from ..run import Run, current_run
from .transports import transport_for

logger = logging.getLogger("celery_idempotent")


class EmailBackend(BaseEmailBackend):
    """Wraps the backend named by ``CELERY_IDEMPOTENT["EMAIL_BACKEND"]``, or by its own option ``backend``.

    All other options are the wrapped backend's. A message may carry ``idempotency_part``, a name that tells it
    from the body's other messages.
    """

    records_in_ledger = True

    def __init__(
        self,
        fail_silently: bool = False,
        *,
        alias: str | None = None,
        backend: str | None = None,
        **options: Any,
    ) -> None:
        named: dict[str, Any] = {} if alias is None else {"alias": alias}  # MAILERS, from Django 6.1 on
        super().__init__(**named)
        self.fail_silently = fail_silently
        wrapped = import_string(backend or conf.email_backend)
        silent = {"fail_silently": True} if fail_silently else {}
        self._tracked: BaseEmailBackend = wrapped(**named, **options)
        self._passing: BaseEmailBackend = wrapped(**named, **options, **silent)

    def open(self) -> bool | None:
        """Open the wrapped backend's connection."""
        return (self._tracked if current_run() else self._passing).open()

    def close(self) -> None:
        """Close the wrapped backend's connections."""
        self._passing.close()
        self._tracked.close()

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Send ``email_messages`` and return how many the mail server has (now or from an earlier attempt).

        Inside an idempotent task it raises `RecipientsDeferred`, `RecipientsRefused`, `DeliveryInDoubt`,
        `ClaimLost` or `LedgerUnavailable`, and what the wrapped backend raises before anything is sent.
        """
        run = current_run()
        if run is None or run.policy.opaque:
            return self._passing.send_messages(email_messages) or 0
        return sum(self._send_tracked(run, message) for message in email_messages)

    def _send_tracked(self, run: Run, message: EmailMessage) -> bool:
        if run.stopped_by is not None:
            raise run.stopped_by
        if not message.recipients():
            logger.warning("%s: a message without recipients was not sent", run.asker.email_type)
            return False
        try:
            hand_over(run, message, self._tracked)
        except Exception as error:
            if not self.fail_silently or run.stopped_by is not None:
                raise
            run.unsent = error
            return False
        return True


def hand_over(run: Run, message: EmailMessage, backend: BaseEmailBackend) -> None:
    """Offer ``message`` to those of its recipients who have not been served. Raises what is not settled."""
    addresses = _by_target(run, message)
    message_id = run.message_id(next(iter(addresses)), conf.message_id_domain or DNS_NAME.get_fqdn())
    known = run.known()
    pending = {
        address: target
        for target, address in addresses.items()
        if _may_be_offered(known.get((target[0], target[1].digest)))
    }
    if pending:
        with _stamped(message, run, message_id):
            replies = transport_for(backend).deliver(
                message,
                list(pending),
                lambda served: run.begin([pending[address] for address in served], message_id),
                run.policy.send_timeout,
            )
        run.settle({pending[address]: _scrubbed(reply) for address, reply in replies.items()}, message_id)
    _raise_unsettled(run, list(addresses))


def _scrubbed(reply: Reply) -> Reply:
    """Return ``reply`` without the addresses that servers like to quote."""
    return reply if conf.recipients == "plain" else replace(reply, detail=mask_all(reply.detail))


def _by_target(run: Run, message: EmailMessage) -> dict[Target, str]:
    salt, form = conf.recipient_salt, conf.recipients
    people: dict[str, tuple[Recipient, str]] = {}
    for address in message.recipients():
        who = recipient(address, salt, form)
        people.setdefault(who.digest, (who, address))
    name = getattr(message, "idempotency_part", None)
    targets = run.targets([who for who, _ in people.values()], name)
    return dict(zip(targets, [address for _, address in people.values()], strict=True))


def _may_be_offered(delivery: Delivery | None) -> bool:
    return delivery is None or delivery.status is DeliveryStatus.DEFERRED


@contextmanager
def _stamped(message: EmailMessage, run: Run, message_id: str) -> Iterator[None]:
    """Give ``message`` the Message-ID and Date of its generation, and take them off again."""
    headers = message.extra_headers
    given = {name.lower() for name in headers}
    stamps = {"Message-ID": message_id}
    if run.entry.begun_at is not None:
        stamps["Date"] = format_datetime(run.entry.begun_at)  # type: ignore[arg-type]
    message.extra_headers = headers | {k: v for k, v in stamps.items() if k.lower() not in given}
    try:
        yield
    finally:
        message.extra_headers = headers


def _raise_unsettled(run: Run, targets: Sequence[Target]) -> None:
    known = run.known()
    rows = [known[part, who.digest] for part, who in targets]
    by_status: Mapping[DeliveryStatus, list[Delivery]] = {
        status: [row for row in rows if row.status is status] for status in DeliveryStatus
    }
    name = run.asker.email_type
    if doubtful := by_status[DeliveryStatus.IN_DOUBT]:
        kind = DeliveryInDoubt if run.policy.in_doubt == "hold" else SMTPServerDisconnected
        run.stopped_by = kind(f"{name}: no reply to the payload ({_described(doubtful)})")
        raise run.stopped_by
    if deferred := by_status[DeliveryStatus.DEFERRED]:
        raise RecipientsDeferred(f"{name}: refused for now: {_described(deferred)}")
    if refused := by_status[DeliveryStatus.REFUSED]:
        raise RecipientsRefused(f"{name}: refused for good: {_described(refused)}")


def _described(rows: Sequence[Delivery]) -> str:
    shown = [f"{d.recipient.shown or d.recipient.digest[:12]} ({d.code or ''} {d.detail})" for d in rows[:5]]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return ", ".join(shown) + more
