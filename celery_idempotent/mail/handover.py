"""Hands one message over to unserved recipients, and writes each step into the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from django.core.mail import EmailMessage
from django.core.mail.utils import DNS_NAME

from ..conf import conf
from ..execution.run import Run, TakenBack
from ..ledger.addresses import mask_all, printable, recipient
from ..ledger.entry import Delivery, DeliveryKey, Entry, Recipient
from ..ledger.held_claim import NOT_YET
from ..ledger.outcomes import Reply, Target
from ..ledger.status import DeliveryStatus
from .delivery_errors import is_temporary, raise_unserved
from .message_headers import given_message_id, stamp
from .provider_keys import ProviderKey
from .providers import Deduplication
from .smtp.requested_waits import read_wait
from .transport_protocol import HandOverId, Transport

_TEMPLATE = ("template_id", "merge_global_data", "merge_data")
"""Attributes of an Anymail message whose text the provider writes."""
_MakeKey = Callable[[Entry, Deduplication | None, str], ProviderKey | None]


class HandOver:
    """Offers ``message`` to those of its recipients who have not been served, and keeps the ledger informed.

    A transport calls `key` where it has a provider, `write_ahead` when the payload is about to be released,
    sets `released` when nobody can call it back any more, and calls `record` as soon as it knows the outcome,
    before anything else.
    """

    pauses: ClassVar[Sequence[float]] = (0.5, 2.0)
    """Seconds before a doubt that the provider can resolve is offered again within the same run."""

    def __init__(self, run: Run, message: EmailMessage, transport: Transport) -> None:
        self.run = run
        self.name = run.claimant.email_type
        self.message = message
        self.transport = transport
        self.addresses = _assign_targets(run, message)
        self.message_id = given_message_id(message) or run.named(
            map(_delivery_key, self.addresses), self._candidate_message_ids()
        )
        self._pending: dict[str, Target] = {}
        self._open: list[str] = []
        self._replies: Mapping[str, Reply] = {}
        self._waits: list[float] = []
        self._repeated_key: ProviderKey | None = None
        """Set while a doubt is offered once more."""
        self._new_key: ProviderKey | None = None
        self._is_final = False
        """True if another offer would be answered in the same way."""
        self.released = False

    def _candidate_message_ids(self) -> Iterator[str]:
        """Yield Message-IDs, the best first: of earlier attempts (also by another host), then computed."""
        yield from self._known_message_ids()
        for target in self.addresses:
            yield self.run.message_id(target, conf.message_id_domain or DNS_NAME.get_fqdn())

    def _known_message_ids(self) -> Iterator[str]:
        known = self.run.known()
        rows = (known.get(_delivery_key(target)) for target in self.addresses)
        return (row.message_id for row in rows if row is not None and row.message_id)

    def deliver(self) -> None:
        """Hand the message over. Raises an error about unserved recipients, or one from before sending."""
        try:
            self._deliver()
        except Exception as error:
            self.run.unserved.note(map(_delivery_key, self.addresses), error, is_temporary(error))
            raise

    def _deliver(self) -> None:
        pauses = iter(self.pauses)
        while self._choose_pending():
            try:
                with stamp(self.message, self.run.entry, self.message_id, self._own_header()):
                    self.transport.deliver(
                        self.message, list(self._pending), self, self.run.policy.send_timeout
                    )
            except TakenBack:
                continue  # look again who is still owed it
            except BaseException as error:
                self._record_interruption(error)
                if self._repeated_key is None or not is_temporary(error):
                    raise
            if not self._wait_for_doubt(pauses):
                break
        if self._is_final:
            self.run.close_offer()
        wait = max(self._waits, default=None)
        raise_unserved(self.run, list(map(_delivery_key, self.addresses)), wait, self._is_final)

    def _choose_pending(self) -> bool:
        """Choose the recipients to offer the message to, and tell whether there are any.

        Doubtful deliveries come first, and alone: under their provider key, or not at all.
        """
        known, doubtful, keys = self.run.known(), self._keys_in_doubt(), self._keys()
        self._repeated_key, offered = None, {key for key in keys if _may_be_offered(known.get(key))}
        if doubtful & keys:
            self._repeated_key = self._make_key(ProviderKey.repeat) if doubtful <= keys else None
            offered = doubtful if self._repeated_key else set()
            self._is_final = self._repeated_key is None
        self._pending = {
            address: target for target, address in self.addresses.items() if _delivery_key(target) in offered
        }
        return bool(self._pending)

    def _keys(self) -> set[DeliveryKey]:
        return set(map(_delivery_key, self.addresses))

    def _keys_in_doubt(self) -> set[DeliveryKey]:
        """Return the doubtful deliveries of the whole body, not of this message alone."""
        return {delivery.key for delivery in self.run.entry.doubtful_deliveries()}

    def _make_key(self, make: _MakeKey) -> ProviderKey | None:
        return make(self.run.entry, self.transport.provider, self.transport.account)

    def _wait_for_doubt(self, pauses: Iterator[float]) -> bool:
        """Tell whether to choose recipients again: a doubt is settled, or may be settled after a pause."""
        if not self._keys_in_doubt() & self._keys():
            return self._repeated_key is not None
        pause = next(pauses, None) if self.run.entry.provider_key and not self._is_final else None
        if pause is None:
            return False
        time.sleep(pause)
        return True

    def next_attempt_id(self) -> HandOverId:
        """Return the ledger's name for the next transaction."""
        entry = self.run.entry
        return HandOverId(entry.key, entry.generation, entry.attempts + 1, self.message_id, entry.begun_at)

    def not_asked(self) -> set[str]:
        """Return the addresses that the last attempt did not reach."""
        known = self.run.known()
        asked = {key for key, delivery in known.items() if not delivery.detail.startswith(NOT_YET)}
        return {address for address, target in self._pending.items() if _delivery_key(target) not in asked}

    def key(self) -> ProviderKey | None:
        """Return the provider key for the next transaction."""
        self._new_key = self._repeated_key or self._make_key(ProviderKey.create)
        return self._new_key

    def _own_header(self) -> str:
        """Return the header of the provider's key: a header that the project set would be a second key."""
        provider = self.transport.provider
        goes = provider is not None and provider.in_message and self._make_key(ProviderKey.create)
        return provider.header if provider is not None and goes else ""

    def write_ahead(self, served: Sequence[str], content: bytes = b"") -> None:
        """Write ahead that ``served`` get the message. Raises `ClaimLost`, `LedgerUnavailable`: do not send."""
        self._replies, self.released = {}, False  # replies of an earlier transaction are on record
        if self._repeated_key is not None:
            self.run.begin_again([self._pending[address] for address in served])
            self._open = list(self._pending)
            return
        offer = self._new_key.offer(content) if self._new_key else None
        now = frozenset(served)
        waiting = [target for address, target in self._pending.items() if address not in now]
        self.run.begin([self._pending[address] for address in served], self.message_id, offer, waiting)
        self._open, self._new_key = list(served), None

    def record(self, replies: Mapping[str, Reply]) -> None:
        """Write the outcome for each address into the ledger."""
        self._replies = replies  # before anything else: a soft time limit can strike anywhere
        deferred = [reply for reply in replies.values() if reply.status is DeliveryStatus.DEFERRED]
        self._waits += [wait for r in deferred if (wait := read_wait(r.code, r.detail)) is not None]
        settled = {self._pending[address]: _scrub(reply) for address, reply in replies.items()}
        # A doubt is offered again with its first Message-ID, also where the project gives each attempt another.
        names = self._known_message_ids() if self._repeated_key is not None else iter(())
        self.run.settle(settled, next(names, self.message_id))
        self._is_final = self._repeats(replies)
        self._open = []

    def _repeats(self, replies: Mapping[str, Reply]) -> bool:
        """Tell whether the provider would answer another offer of the doubtful deliveries in the same way."""
        provider, doubtful = self.transport.provider, self._keys_in_doubt()
        said = [
            reply for address, reply in replies.items() if _delivery_key(self._pending[address]) in doubtful
        ]
        return provider is not None and bool(said) and all(map(provider.is_final, said))

    def _record_interruption(self, error: BaseException) -> None:
        """Record the outcome of a hand-over that ``error``, such as a soft time limit, has interrupted."""
        if not self._open:
            return
        if self._replies:
            if self.run.stopped_by is None:
                self.record(self._replies)
            return
        status = DeliveryStatus.IN_DOUBT if self.released else DeliveryStatus.DEFERRED
        self.record(dict.fromkeys(self._open, Reply(status, None, f"interrupted: {type(error).__name__}")))


def _scrub(reply: Reply) -> Reply:
    """Return ``reply`` with the addresses masked that servers like to quote."""
    form = conf.recipients
    detail = reply.detail if form == "plain" else mask_all(reply.detail, form)
    return replace(reply, detail=printable(detail))


def _assign_targets(run: Run, message: EmailMessage) -> dict[Target, str]:
    salt, form = conf.recipient_salt, conf.recipients
    people: dict[str, tuple[Recipient, str]] = {}
    for address in message.recipients():
        who = recipient(address, salt, form)
        people.setdefault(who.digest, (who, address))
    name = getattr(message, "idempotency_part", None)
    targets = run.targets([who for who, _ in people.values()], name, _hash_content(message))
    return dict(zip(targets, [address for _, address in people.values()], strict=True))


def _hash_content(message: EmailMessage) -> int:
    """Return a hash that tells this message from the body's others, and recognises it when it is sent again.

    The sender is no part of it: a fallback often has another one. Template and variables are part of it, as a
    provider may write the text.
    """
    more = [str(item) for name in ("alternatives", "attachments") for item in getattr(message, name, ())]
    template = [str(getattr(message, name, None)) for name in _TEMPLATE]
    return hash((str(message.subject), str(message.body), *message.to, *more, *template))


def _delivery_key(target: Target) -> DeliveryKey:
    return target[0], target[1].digest


def _may_be_offered(delivery: Delivery | None) -> bool:
    return delivery is None or delivery.status is DeliveryStatus.DEFERRED
