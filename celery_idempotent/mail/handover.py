"""One offer of one message: who is still owed it, what the ledger is told when, and what is raised about it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.utils import format_datetime

from django.core.mail import EmailMessage
from django.core.mail.utils import DNS_NAME

from ..conf import conf
from ..execution.run import Run, TakenBack
from ..ledger.addresses import mask_all, printable, recipient
from ..ledger.entry import Delivery, Recipient
from ..ledger.held_claim import NOT_YET
from ..ledger.outcomes import Reply, Target
from ..ledger.status import DeliveryStatus
from .delivery_errors import raise_unsettled
from .provider_keys import delivery_key, keys_in_doubt, known_key, new_key
from .providers import ProviderKey
from .smtp.reply_codes import wait_for
from .transport_protocol import HandOverId, Transport
from .transport_selection import may_pass

PAUSES = (0.5, 2.0)
"""Seconds before what is in doubt is offered again at once, where the provider recognises it."""
_TEMPLATE = ("template_id", "merge_global_data", "merge_data")
"""Attributes of Anymail's."""


class HandOver:
    """Offers ``message`` to those of its recipients who have not been served, and keeps the ledger informed.

    A transport calls `key` where it has a provider, `write_ahead` when the payload is about to be released,
    sets `released` when nobody can call it back any more, and calls `record` as soon as it knows the outcome,
    before anything else.
    """

    def __init__(self, run: Run, message: EmailMessage, transport: Transport) -> None:
        self.run = run
        self.name = run.claimant.email_type
        self.message = message
        self.transport = transport
        self.addresses = _by_target(run, message)
        self.message_id = _given_message_id(message) or run.named(
            map(delivery_key, self.addresses), self._names()
        )
        self._pending: dict[str, Target] = {}
        self._open: list[str] = []
        self._replies: Mapping[str, Reply] = {}
        self._waits: list[float] = []
        self._again: ProviderKey | None = None
        """Set while what is in doubt is offered once more."""
        self._next: ProviderKey | None = None
        self._is_final = False
        """Another try would come to the same."""
        self.released = False

    def _names(self) -> Iterator[str]:
        """Yield Message-IDs, the best first: what this was called when it was offered, perhaps elsewhere."""
        yield from self._known_message_ids()
        for target in self.addresses:
            yield self.run.message_id(target, conf.message_id_domain or DNS_NAME.get_fqdn())

    def _known_message_ids(self) -> Iterator[str]:
        known = self.run.known()
        rows = (known.get(delivery_key(target)) for target in self.addresses)
        return (row.message_id for row in rows if row is not None and row.message_id)

    def deliver(self) -> None:
        """Hand over what is owed. Raises what is not settled, and what the transport raises before it sends."""
        try:
            self._deliver()
        except Exception as error:
            self.run.unserved.note(map(delivery_key, self.addresses), error, may_pass(error))
            raise

    def _deliver(self) -> None:
        pauses = iter(PAUSES)
        while self._owed():
            try:
                with _stamped(self.message, self.run, self.message_id, self._ours()):
                    self.transport.deliver(
                        self.message, list(self._pending), self, self.run.policy.send_timeout
                    )
            except TakenBack:
                continue  # look again who is still owed it
            except BaseException as error:
                self._close(error)
                if self._again is None or not may_pass(error):
                    raise
            if not self._goes_on(pauses):
                break
        if self._is_final:
            self.run.close_offer()
        wait = max(self._waits, default=None)
        raise_unsettled(self.run, list(self.addresses), wait, self._is_final)

    def _owed(self) -> bool:
        """Find out who has not been served yet, and tell whether there is anybody.

        What is in doubt comes first, and alone: under the key that it was handed over with, or not at all.
        """
        known, doubtful = self.run.known(), keys_in_doubt(self.run.entry)
        mine = {delivery_key(target): address for target, address in self.addresses.items()}
        self._again, offered = None, {where for where in mine if _may_be_offered(known.get(where))}
        if doubtful & mine.keys():
            whole = doubtful <= mine.keys()
            self._again = known_key(self.run.entry, self.transport) if whole else None
            offered = doubtful if self._again else set()
            self._is_final = self._again is None
        self._pending = {
            address: target for target, address in self.addresses.items() if delivery_key(target) in offered
        }
        return bool(self._pending)

    def _goes_on(self, pauses: Iterator[float]) -> bool:
        """Tell whether to look again who is owed it: a doubt is settled, or may be in a moment."""
        entry = self.run.entry
        if not keys_in_doubt(entry) & {delivery_key(target) for target in self.addresses}:
            return self._again is not None
        pause = next(pauses, None) if entry.provider_key and not self._is_final else None
        if pause is None:
            return False
        time.sleep(pause)
        return True

    def next_attempt_id(self) -> HandOverId:
        """Return what the next transaction is called in the ledger."""
        entry = self.run.entry
        return HandOverId(entry.key, entry.generation, entry.attempts + 1, self.message_id, entry.begun_at)

    def not_asked(self) -> set[str]:
        """Return whose address no server was told in the last try."""
        known = self.run.known()
        asked = {where for where, d in known.items() if not d.detail.startswith(NOT_YET)}
        return {address for address, target in self._pending.items() if delivery_key(target) not in asked}

    def key(self) -> ProviderKey | None:
        """Return the provider key for the next transaction."""
        self._next = self._again or new_key(self.run.entry, self.transport)
        return self._next

    def _ours(self) -> str:
        """Return the header that carries the provider's key: a project's own would be another key beside it."""
        provider = self.transport.provider
        goes = provider is not None and provider.in_message and new_key(self.run.entry, self.transport)
        return provider.header if provider is not None and goes else ""

    def write_ahead(self, served: Sequence[str], content: bytes = b"") -> None:
        """Write that ``served`` are about to get it. Raises `ClaimLost`, `LedgerUnavailable`: do not send."""
        self._replies, self.released = {}, False  # those of an earlier transaction are on record
        if self._again is not None:
            self.run.begin_again([self._pending[address] for address in served])
            self._open = list(self._pending)
            return
        offer = self._next.offer(content) if self._next else None
        now = frozenset(served)
        waiting = [target for address, target in self._pending.items() if address not in now]
        self.run.begin([self._pending[address] for address in served], self.message_id, offer, waiting)
        self._open, self._next = list(served), None

    def record(self, replies: Mapping[str, Reply]) -> None:
        """Write what became of the message for each address."""
        self._replies = replies  # before anything else: a soft time limit can strike anywhere
        deferred = [reply for reply in replies.values() if reply.status is DeliveryStatus.DEFERRED]
        self._waits += [wait for r in deferred if (wait := wait_for(r.code, r.detail)) is not None]
        settled = {self._pending[address]: _scrubbed(reply) for address, reply in replies.items()}
        # What went before is offered again as it was then, also where the project gives each try a Message-ID.
        names = self._known_message_ids() if self._again is not None else iter(())
        self.run.settle(settled, next(names, self.message_id))
        self._is_final = self._repeats(replies)
        self._open = []

    def _repeats(self, replies: Mapping[str, Reply]) -> bool:
        """Tell whether the provider would answer another offer of what is in doubt as it has just done."""
        provider, doubtful = self.transport.provider, keys_in_doubt(self.run.entry)
        said = [reply for address, reply in replies.items() if delivery_key(self._pending[address]) in doubtful]
        return provider is not None and bool(said) and all(map(provider.is_final, said))

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
    form = conf.recipients
    detail = reply.detail if form == "plain" else mask_all(reply.detail, form)
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
    """Return what tells this message from the body's others, so that sending it again is seen as that.

    Not its sender: a fallback often has one of its own. Where a provider writes it, the template and its words.
    """
    more = [str(item) for name in ("alternatives", "attachments") for item in getattr(message, name, ())]
    template = [str(getattr(message, name, None)) for name in _TEMPLATE]
    return hash((str(message.subject), str(message.body), *message.to, *more, *template))


def _may_be_offered(delivery: Delivery | None) -> bool:
    return delivery is None or delivery.status is DeliveryStatus.DEFERRED


def _given_message_id(message: EmailMessage) -> str | None:
    """Return the Message-ID that the project has set itself; whether it stays the same is then its business."""
    for name, value in message.extra_headers.items():
        if name.lower() == "message-id":
            return str(value)[:255]
    return None


@contextmanager
def _stamped(message: EmailMessage, run: Run, message_id: str, without: str) -> Iterator[None]:
    """Give ``message`` the Message-ID and Date of its generation, and take them off again."""
    headers = message.extra_headers
    kept = {name: value for name, value in headers.items() if name.lower() != without.lower()}
    given = {name.lower() for name in kept}
    stamps = {"Message-ID": message_id}
    if run.entry.begun_at is not None:
        stamps["Date"] = format_datetime(run.entry.begun_at)  # type: ignore[arg-type]
    message.extra_headers = kept | {k: v for k, v in stamps.items() if k.lower() not in given}
    try:
        yield
    finally:
        message.extra_headers = headers
