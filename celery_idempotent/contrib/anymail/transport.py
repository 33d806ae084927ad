"""Transport for Anymail's backends: hands over in Anymail's steps; failures before the request are definite."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from anymail.backends.base import AnymailBaseBackend, BasePayload
from anymail.backends.base_requests import RequestsPayload
from anymail.exceptions import (
    AnymailAPIError,
    AnymailError,
    AnymailRecipientsRefused,
    AnymailUnsupportedFeature,
)
from anymail.message import AnymailRecipientStatus, AnymailStatus
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from ...exceptions import RecipientsRefused
from ...ledger.addresses import mask_all, normalise
from ...ledger.outcomes import Reply
from ...ledger.status import DeliveryStatus
from ...mail.any_backend import restrict_recipients
from ...mail.provider_keys import ProviderKey
from ...mail.providers import API, SMTP, Deduplication
from ...mail.transport_protocol import HandOverObserver
from .api_errors import UnspecificRefusal, read_error
from .client_retries import count_tries
from .client_timeouts import Deadline, open_client
from .compat import sends_as_anymail
from .message_marks import Mark

logger = logging.getLogger("celery_idempotent")

_BATCH = ("merge_data", "merge_headers", "merge_metadata")
_STATUS = {
    "sent": DeliveryStatus.ACCEPTED,
    "queued": DeliveryStatus.ACCEPTED,
    "invalid": DeliveryStatus.REFUSED,
    "rejected": DeliveryStatus.REFUSED,
    "failed": DeliveryStatus.DEFERRED,
}
"""Anymail's status of a recipient, and the ledger's. Another status is a doubt."""


class AnymailTransport:
    """Builds the request, writes ahead, posts, records; then calls Anymail's receivers."""

    def __init__(self, backend: AnymailBaseBackend, provider: Deduplication | None) -> None:
        self.backend = backend
        self.provider = provider
        names = ("api_url", "api_key")
        self.account = " ".join([backend.esp_name, *(str(getattr(backend, name, "")) for name in names)])

    @classmethod
    def find(cls, backend: BaseEmailBackend, provider: Deduplication | None) -> AnymailTransport | None:
        """Return the transport of a backend that sends as Anymail's own do; None for any other."""
        if not (isinstance(backend, AnymailBaseBackend) and sends_as_anymail(type(backend))):
            return None
        if provider in SMTP.values():  # named for another mailer
            provider = None
        return cls(backend, API.get(backend.esp_name, provider))

    def deliver(
        self, message: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        """Hand ``message`` over to ``addresses``. Raises errors from before the request."""
        with open_client(self.backend, timeout):
            self._deliver(message, addresses, observer, timeout)

    def _deliver(
        self, original: EmailMessage, addresses: Sequence[str], observer: HandOverObserver, timeout: float
    ) -> None:
        key = observer.key() if self.provider else None
        message = restrict_recipients(original, addresses)
        if original.to and not message.to:  # no provider takes a message to nobody
            message.to, message.cc = message.cc, []
        message.anymail_status = AnymailStatus()  # type: ignore[attr-defined]
        frozen = key is not None and key.frozen
        if not frozen and (cancelled := self._run_pre_send(message, addresses)):
            observer.record(cancelled)
            addresses = [address for address in addresses if address not in cancelled]
            if not addresses:
                return
        payload = self._build_payload(message, observer, key)
        content = self._serialise(payload, key)
        end = time.monotonic() + timeout  # before the write-ahead: the store's deadline starts in it
        observer.write_ahead(addresses, content)
        with Deadline(end) as deadline:
            observer.released = True
            several = len(addresses) > 1 and not (key is not None and key.is_repeated)
            replies, response = self._post(payload, message, addresses, observer, several)
        if deadline.cut:
            late = Reply(DeliveryStatus.IN_DOUBT, None, "no answer by the send deadline")
            replies, response = dict.fromkeys(addresses, late), None
        observer.record(replies)
        _raise_unspecific(replies, observer.name)
        if response is not None:
            original.anymail_status = message.anymail_status  # type: ignore[attr-defined]
            self._run_post_send(message)

    def _run_pre_send(self, message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
        """Run the pre_send receivers, which may change the message; return refusals of those they removed."""
        before = {normalise(address) for address in message.recipients()}
        goes = self.backend.run_pre_send(message)
        left = {normalise(address) for address in message.recipients()} if goes else set()
        if left - before:
            return {}  # redirected, as on a staging system: that counts as sent to all
        said = Reply(DeliveryStatus.REFUSED, None, "taken off by a receiver of Anymail's pre_send")
        return {address: said for address in addresses if normalise(address) not in left}

    def _build_payload(
        self, message: EmailMessage, observer: HandOverObserver, key: ProviderKey | None
    ) -> BasePayload:
        """Return Anymail's payload with the ledger's mark, and with a provider's header of the message."""
        batch = any(isinstance(getattr(message, name, None), Mapping) for name in _BATCH)
        mark = Mark.write(observer.next_attempt_id(), whole=not batch)
        in_message = {key.provider.header: key.value} if key and key.provider.in_message else {}
        with _extended(message, "extra_headers", in_message):
            try:
                with _extended(message, "metadata", mark):
                    return self.backend.build_message_payload(message, self.backend.send_defaults)
            except AnymailUnsupportedFeature:
                # Of the project's options, then it is raised again; or of the mark, which has no place here.
                return self.backend.build_message_payload(message, self.backend.send_defaults)

    def _serialise(self, payload: BasePayload, key: ProviderKey | None) -> bytes:
        """Serialise ``payload`` here, where errors are definite; return content for a provider to compare."""
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

    def _post(
        self,
        payload: BasePayload,
        message: EmailMessage,
        addresses: Sequence[str],
        observer: HandOverObserver,
        several: bool,
    ) -> tuple[dict[str, Reply], object]:
        """Make the request. Return the reply for each address, and the response if it was understood."""
        backend = self.backend
        try:
            response = backend.post_to_esp(payload, message)
        except (AnymailAPIError, AnymailRecipientsRefused) as error:
            said = read_error(error, self.provider, count_tries(backend) > 1, several)
            return dict.fromkeys(addresses, said), None
        except AnymailError:
            observer.released = False  # Anymail raised it while it prepared the request
            raise
        try:
            said = backend.parse_recipient_status(response, payload, message)
        except AnymailAPIError as error:
            said = read_error(error, self.provider, count_tries(backend) > 1, several)
            return dict.fromkeys(addresses, said), None
        message.anymail_status.esp_response = response  # type: ignore[attr-defined]
        message.anymail_status.set_recipient_status(said)  # type: ignore[attr-defined]
        code = getattr(response, "status_code", None)
        known = {normalise(address): _reply(status, code) for address, status in said.items()}
        all_said = {reply.status for reply in known.values()}
        other = next(iter(known.values())) if len(all_said) == 1 else _reply(None, code)
        return {address: known.get(normalise(address), other) for address in addresses}, response

    def _run_post_send(self, message: EmailMessage) -> None:
        """Run the post_send receivers. The mail is on record, and their errors do not change that."""
        try:
            self.backend.run_post_send(message)
        except Exception:
            logger.exception("a receiver of Anymail's post_send raised; the mail has been sent all the same")


def _raise_unspecific(replies: Mapping[str, Reply], name: str) -> None:
    """Raise `RecipientsRefused` for a request that was refused as a whole: a retry would be refused too."""
    for reply in replies.values():
        if isinstance(reply, UnspecificRefusal):
            raise RecipientsRefused(
                f"{name}: the request for {len(replies)} recipients was refused as a whole, nothing was sent: "
                + mask_all(reply.detail)
            )


def _reply(status: AnymailRecipientStatus | None, code: int | None) -> Reply:
    """Return the reply of Anymail's status of one recipient. After an HTTP error a doubt is a deferral."""
    said = getattr(status, "status", None)
    meaning = _STATUS.get(str(said), DeliveryStatus.IN_DOUBT)
    if meaning is DeliveryStatus.IN_DOUBT and code is not None and code >= 400:
        meaning = DeliveryStatus.DEFERRED
    message_id = getattr(status, "message_id", None)
    return Reply(meaning, code, f"{said or 'nothing said'}{'' if message_id is None else f' {message_id}'}")


@contextmanager
def _extended(message: EmailMessage, name: str, more: Mapping[str, str]) -> Iterator[None]:
    """Inside the block the mapping ``name`` of ``message`` holds ``more`` as well."""
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
