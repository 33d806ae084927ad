"""The hand-over to a provider's API, in Anymail's own steps: what fails before the request is definite."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from anymail.backends.base import AnymailBaseBackend
from anymail.backends.base_requests import RequestsPayload
from anymail.exceptions import (
    AnymailAPIError,
    AnymailError,
    AnymailRecipientsRefused,
    AnymailUnsupportedFeature,
)
from anymail.message import AnymailStatus
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from ...exceptions import RecipientsRefused
from ...ledger.addresses import mask_all, normalise
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ...mail.any_backend import addressed
from ...mail.providers import BREVO, RESEND, SMTP, Deduplication, ProviderKey
from ...mail.transport_protocol import HandOverObserver
from . import message_marks
from .api_errors import Unnamed, reply_for
from .client_retries import tries
from .client_timeouts import Deadline, limit_timeouts, watch

logger = logging.getLogger("celery_idempotent")

PROVIDERS = {"Resend": RESEND, "Brevo": BREVO}
"""By Anymail's ``esp_name``: who recognises a key in what Anymail sends."""
_BATCH = ("merge_data", "merge_headers", "merge_metadata")
_SAID = {
    "sent": DeliveryStatus.ACCEPTED,
    "queued": DeliveryStatus.ACCEPTED,
    "invalid": DeliveryStatus.REFUSED,
    "rejected": DeliveryStatus.REFUSED,
    "failed": DeliveryStatus.DEFERRED,
}
"""Anymail's status of a recipient. Anything else says nothing."""


def transport_for(backend: BaseEmailBackend, provider: Deduplication | None) -> AnymailTransport | None:
    """Return the transport of a backend that sends as Anymail's own do; None for any other."""
    if not isinstance(backend, AnymailBaseBackend):
        return None
    kind = type(backend)
    own = kind.send_messages is AnymailBaseBackend.send_messages
    if not (own and kind._send.__module__.startswith("anymail.")):
        return None
    if provider in SMTP.values():  # named for another mailer
        provider = None
    return AnymailTransport(backend, PROVIDERS.get(backend.esp_name, provider))


class AnymailTransport:
    """Builds, writes ahead, posts, records; then tells Anymail's receivers."""

    def __init__(self, backend: Any, provider: Deduplication | None) -> None:
        self.backend = backend
        self.provider = provider
        names = ("api_url", "api_key")
        self.account = " ".join([backend.esp_name, *(str(getattr(backend, name, "")) for name in names)])

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Hand ``message`` over to ``addresses``. Raises what went wrong before the request."""
        backend = self.backend
        limit_timeouts(backend, timeout)
        opened = backend.open()
        watch(backend)
        try:
            self._deliver(message, addresses, observer, timeout)
        finally:
            if opened:
                self._close()

    def _deliver(
        self, original: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        key = observer.key() if self.provider else None
        message = addressed(original, addresses)
        if original.to and not message.to:  # no provider takes a message to nobody
            message.to, message.cc = message.cc, []
        message.anymail_status = AnymailStatus()  # type: ignore[attr-defined]
        frozen = key is not None and key.frozen
        if not frozen and (left_out := self._left_out(message, addresses)):
            observer.record(left_out)
            addresses = [address for address in addresses if address not in left_out]
            if not addresses:
                return
        payload = self._payload(message, observer, key)
        content = self._prepared(payload, key)
        end = time.monotonic() + timeout  # before the write-ahead: the store's deadline starts in it
        observer.write_ahead(addresses, content)
        with Deadline(end) as deadline:
            observer.released = True
            several = len(addresses) > 1 and not (key is not None and key.again)
            replies, response = self._posted(payload, message, addresses, observer, several)
        if deadline.cut:
            late = Reply(DeliveryStatus.IN_DOUBT, None, "no answer by the send deadline")
            replies, response = dict.fromkeys(addresses, late), None
        observer.record(replies)
        _raise_unnamed(replies, observer.name)
        if response is not None:
            original.anymail_status = message.anymail_status  # type: ignore[attr-defined]
            self._tell(message)

    def _left_out(self, message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
        """Run the pre_send receivers, which may change or cancel the message; return whom they took off it."""
        before = {normalise(address) for address in message.recipients()}
        goes = self.backend.run_pre_send(message)
        left = {normalise(address) for address in message.recipients()} if goes else set()
        if left - before:
            return {}  # redirected, as on a staging system: whoever gets it now, it is sent for all
        said = Reply(DeliveryStatus.REFUSED, None, "taken off by a receiver of Anymail's pre_send")
        return {address: said for address in addresses if normalise(address) not in left}

    def _payload(self, message: EmailMessage, observer: HandOverObserver, key: ProviderKey | None) -> Any:
        """Return Anymail's payload with the ledger's mark, and the provider's header where that is in it."""
        batch = any(isinstance(getattr(message, name, None), Mapping) for name in _BATCH)
        mark = message_marks.write(observer.next_attempt_id(), whole=not batch)
        in_message = {key.provider.header: key.value} if key and key.provider.in_message else {}
        with _replaced(message, "extra_headers", in_message):
            try:
                with _replaced(message, "metadata", mark):
                    return self.backend.build_message_payload(message, self.backend.send_defaults)
            except AnymailUnsupportedFeature:
                # Either of something that the project asked for, which comes up again, or of the mark.
                return self.backend.build_message_payload(message, self.backend.send_defaults)

    def _prepared(self, payload: Any, key: ProviderKey | None) -> bytes:
        """Have ``payload`` serialised, so that errors come up here, or frozen; return what may be compared."""
        if not isinstance(payload, RequestsPayload):
            return b""
        params = payload.get_request_params(self.backend.api_url)
        if key is not None and not key.provider.in_message:
            params["headers"] = {**(params["headers"] or {}), key.provider.header: key.value}
        if key is not None and key.frozen:
            params |= json.loads(key.frozen)
        payload.get_request_params = lambda api_url: dict(params)  # type: ignore[method-assign]
        data = params["data"]
        if isinstance(data, bytes):
            data = data.decode("latin-1") if data.isascii() else None
        return json.dumps({"url": params["url"], "data": data}).encode() if isinstance(data, str) else b""

    def _posted(
        self,
        payload: Any,
        message: EmailMessage,
        addresses: Sequence[str],
        observer: HandOverObserver,
        several: bool,
    ) -> tuple[dict[str, Reply], Any]:
        """Make the request. Return what it comes to for each address, and the response if it was understood."""
        backend = self.backend
        try:
            response = backend.post_to_esp(payload, message)
        except (AnymailAPIError, AnymailRecipientsRefused) as error:
            said = reply_for(error, self.provider, tries(backend) > 1, several)
            return dict.fromkeys(addresses, said), None
        except AnymailError:
            observer.released = False  # Anymail found out while it prepared the request
            raise
        try:
            said = backend.parse_recipient_status(response, payload, message)
        except AnymailAPIError as error:
            said = reply_for(error, self.provider, tries(backend) > 1, several)
            return dict.fromkeys(addresses, said), None
        message.anymail_status.esp_response = response  # type: ignore[attr-defined]
        message.anymail_status.set_recipient_status(said)  # type: ignore[attr-defined]
        code = getattr(response, "status_code", None)
        known = {normalise(address): _reply(status, code) for address, status in said.items()}
        all_said = {reply.status for reply in known.values()}
        other = next(iter(known.values())) if len(all_said) == 1 else _reply(None, code)
        return {address: known.get(normalise(address), other) for address in addresses}, response

    def _tell(self, message: EmailMessage) -> None:
        """Run the post_send receivers: the mail is on record, and nothing that they raise changes that."""
        try:
            self.backend.run_post_send(message)
        except Exception:
            logger.exception("a receiver of Anymail's post_send raised; the mail has been sent all the same")

    def _close(self) -> None:
        try:
            self.backend.close()
        except Exception:
            logger.warning("the client of %s could not be closed", self.backend.esp_name, exc_info=True)


def _raise_unnamed(replies: Mapping[str, Reply], name: str) -> None:
    """Raise what keeps the task from trying a request again that was refused as a whole."""
    for reply in replies.values():
        if isinstance(reply, Unnamed):
            raise RecipientsRefused(
                f"{name}: the request for {len(replies)} recipients was refused as a whole, nothing was sent: "
                + mask_all(reply.detail)
            )


def _reply(status: Any, code: int | None) -> Reply:
    """Return what Anymail's status of one recipient says; of an answer that took nothing, it is not sent."""
    said = getattr(status, "status", None)
    meaning = _SAID.get(str(said), DeliveryStatus.IN_DOUBT)
    if meaning is DeliveryStatus.IN_DOUBT and code is not None and code >= 400:
        meaning = DeliveryStatus.DEFERRED
    message_id = getattr(status, "message_id", None)
    return Reply(meaning, code, f"{said or 'nothing said'}{'' if message_id is None else f' {message_id}'}")


@contextmanager
def _replaced(message: EmailMessage, name: str, more: Mapping[str, str]) -> Iterator[None]:
    """Have a mapping of ``message`` hold ``more`` as well, for as long as it is read."""
    had = name in vars(message)
    before = getattr(message, name, None)
    setattr(message, name, {**(before if isinstance(before, Mapping) else {}), **more})
    try:
        yield
    finally:
        if had:
            setattr(message, name, before)
        else:
            delattr(message, name)
