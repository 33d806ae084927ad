"""One offer of one message: who is still owed it, what the ledger is told when, and what is raised about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.utils import format_datetime
from smtplib import SMTPServerDisconnected

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.utils import DNS_NAME

from ..conf import conf
from ..core.addresses import mask_all, printable, recipient
from ..core.entry import Delivery, Recipient
from ..core.errors import DeliveryInDoubt, RecipientsDeferred, RecipientsRefused
from ..core.outcomes import Reply, Target
from ..core.replies import wait_for
from ..core.status import DeliveryStatus
from ..run import Run, TakenBack
from .routes import may_pass, transport_for


class HandOver:
    """Offers ``message`` to those of its recipients who have not been served, and keeps the ledger informed.

    A transport calls `write_ahead` when the payload is about to be released, sets `released` when nobody can
    call it back any more, and calls `record` as soon as it knows the outcome, before anything else.
    """

    def __init__(self, run: Run, message: EmailMessage) -> None:
        self.run = run
        self.message = message
        self.addresses = _by_target(run, message)
        self.message_id = _given_message_id(message) or run.message_id(
            next(iter(self.addresses)), conf.message_id_domain or DNS_NAME.get_fqdn()
        )
        self._pending: dict[str, Target] = {}
        self._open: list[str] = []
        self._replies: Mapping[str, Reply] = {}
        self._waits: list[float] = []
        self.released = False

    def deliver(self, backend: BaseEmailBackend) -> None:
        """Hand over what is owed. Raises what is not settled, and what the backend raises before it sends."""
        while self._owed():
            try:
                with _stamped(self.message, self.run, self.message_id):
                    transport_for(backend).deliver(
                        self.message, list(self._pending), self, self.run.policy.send_timeout
                    )
            except TakenBack:
                continue  # look again who is still owed it
            except BaseException as error:
                self._close(error)
                if may_pass(error):
                    self.run.passing = error
                raise
            break
        _raise_unsettled(self.run, list(self.addresses), max(self._waits, default=None))

    def _owed(self) -> bool:
        """Find out who has not been served yet, and tell whether there is anybody."""
        known = self.run.known()
        self._pending = {
            address: target
            for target, address in self.addresses.items()
            if _may_be_offered(known.get((target[0], target[1].digest)))
        }
        return bool(self._pending)

    def write_ahead(self, served: Sequence[str]) -> None:
        """Write that ``served`` are about to get it. Raises `ClaimLost`, `LedgerUnavailable`: do not send."""
        self._replies, self.released = {}, False  # those of an earlier transaction are on record
        self.run.begin([self._pending[address] for address in served], self.message_id)
        self._open = list(served)

    def record(self, replies: Mapping[str, Reply]) -> None:
        """Write what became of the message for each address."""
        self._replies = replies  # before anything else: a soft time limit can strike anywhere
        self._waits += [wait for r in replies.values() if (wait := wait_for(r.code, r.detail)) is not None]
        settled = {self._pending[address]: _scrubbed(reply) for address, reply in replies.items()}
        self.run.settle(settled, self.message_id)
        self._open = []

    def _close(self, error: BaseException) -> None:
        """Record what an interruption, such as a soft time limit, leaves behind."""
        if not self._open:
            return
        if self._replies:
            if self.run.stopped_by is None:
                self.record(self._replies)
            return
        status = DeliveryStatus.IN_DOUBT if self.released else DeliveryStatus.DEFERRED
        self.record(dict.fromkeys(self._open, Reply(status, None, f"interrupted: {type(error).__name__}")))


def _scrubbed(reply: Reply) -> Reply:
    """Return ``reply`` without the addresses that servers like to quote."""
    detail = reply.detail if conf.recipients == "plain" else mask_all(reply.detail)
    return replace(reply, detail=printable(detail))


def _by_target(run: Run, message: EmailMessage) -> dict[Target, str]:
    salt, form = conf.recipient_salt, conf.recipients
    people: dict[str, tuple[Recipient, str]] = {}
    for address in message.recipients():
        who = recipient(address, salt, form)
        people.setdefault(who.digest, (who, address))
    name = getattr(message, "idempotency_part", None)
    targets = run.targets([who for who, _ in people.values()], name, _content(message))
    return dict(zip(targets, [address for _, address in people.values()], strict=True))


def _content(message: EmailMessage) -> int:
    """Return what tells this message from the body's others, so that sending it again is seen as that."""
    more = [str(item) for name in ("alternatives", "attachments") for item in getattr(message, name, ())]
    return hash((str(message.subject), str(message.body), str(message.from_email), *message.to, *more))


def _may_be_offered(delivery: Delivery | None) -> bool:
    return delivery is None or delivery.status is DeliveryStatus.DEFERRED


def _given_message_id(message: EmailMessage) -> str | None:
    """Return the Message-ID that the project has set itself; whether it stays the same is then its business."""
    for name, value in message.extra_headers.items():
        if name.lower() == "message-id":
            return str(value)[:255]
    return None


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


def _raise_unsettled(run: Run, targets: Sequence[Target], wait: float | None) -> None:
    known = run.known()
    rows = [known[place] for part, who in targets if (place := (part, who.digest)) in known]
    name = run.asker.email_type
    if doubtful := _in(rows, DeliveryStatus.IN_DOUBT, DeliveryStatus.SENDING):
        kind = DeliveryInDoubt if run.policy.in_doubt == "hold" else SMTPServerDisconnected
        run.stopped_by = kind(f"{name}: no reply to the payload ({_described(doubtful)})")
        raise run.stopped_by
    if deferred := _in(rows, DeliveryStatus.DEFERRED):
        run.passing = RecipientsDeferred(
            f"{name}: refused for now: {_described(deferred)}", *([] if wait is None else [wait])
        )
        raise run.passing
    if refused := _in(rows, DeliveryStatus.REFUSED):
        raise RecipientsRefused(f"{name}: refused for good: {_described(refused)}")


def _in(rows: Sequence[Delivery], *statuses: DeliveryStatus) -> list[Delivery]:
    return [row for row in rows if row.status in statuses]


def _described(rows: Sequence[Delivery]) -> str:
    """Return who and why, addresses masked whatever the ledger shows: results and logs go further than it."""
    shown = [f"{d.recipient.shown or d.recipient.digest[:12]} ({d.code or ''} {d.detail})" for d in rows[:5]]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return mask_all(", ".join(shown)) + more
