"""Renders a Django message into the `Letter` that goes over the wire in SMTP."""

from __future__ import annotations

import email.policy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import parseaddr

import django
from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP
from django.utils.encoding import punycode

from ...ledger.addresses import mask, mask_all, printable

_Prepare = Callable[[str], str]
_PARSER_GIVES_UP = (TypeError, AttributeError)
"""Raised by Python's own parser, about ``Ann <>`` and ``ann@[1.2.3``."""


@dataclass(frozen=True, slots=True)
class Letter:
    """Sender and payload of an SMTP transaction, and each address in the form for the wire."""

    sender: str
    wire: Mapping[str, str]
    """Each address as RCPT TO names it; addresses that Django refuses are missing."""
    payload: bytes
    """Dot-stuffed (RFC 5321 §4.5.2), without the final dot."""
    size: int
    """Octets before dot-stuffing, as RFC 1870 counts them."""
    eight_bit: bool
    """The payload holds octets over 127 (RFC 6152)."""
    utf8_headers: bool
    """The headers hold addresses that only UTF-8 can write (RFC 6532)."""

    @classmethod
    def render(cls, backend: DjangoSMTP, message: EmailMessage, addresses: Sequence[str], name: str) -> Letter:
        """Return ``message`` for ``addresses``. Raises `ValueError` about its headers or sender."""
        with explain_unwritable(message, name):
            return _render(backend, message, addresses)

    def needs_smtputf8(self, address: str) -> bool:
        """Tell whether this mail to ``address`` needs a server with SMTPUTF8 (RFC 6531)."""
        return self.utf8_headers or not (self.sender.isascii() and self.wire[address].isascii())

    def with_payload(self, payload: bytes) -> Letter:
        """Return this letter with another payload, dot-stuffed already."""
        size = len(payload) - payload.count(b"\r\n..")
        return replace(self, payload=payload, size=size, eight_bit=not payload.isascii())


@contextmanager
def explain_unwritable(message: EmailMessage, name: str) -> Iterator[None]:
    """Have a `ValueError` from the block name the field that cannot be written, addresses masked.

    ``name`` is the task's. Results are stored, so no address may stand in them.
    """
    try:
        yield
    except ValueError as error:
        if field := _unwritable_field(message):
            raise _kind(error)(f"{name}: {field}. Correct it where it comes from. Nothing was sent") from None
        if isinstance(error, UnicodeError):
            raise describe_unicode_error(error) from None
        raise type(error)(f"{name}: {mask_all(str(error))}") from None  # Django quotes addresses


def _kind(error: ValueError) -> type[ValueError]:
    return ValueError if isinstance(error, UnicodeError) else type(error)


def _unwritable_field(message: EmailMessage) -> str | None:
    """Describe the address that keeps the headers from being written. Blind copies are in no header."""
    for field in ("to", "cc"):
        for address in getattr(message, field):
            probe = EmailMessage(from_email="root@localhost")
            probe.encoding = message.encoding
            setattr(probe, field, [address])
            try:
                probe.message().as_bytes()
            except ValueError:
                masked = printable(mask(str(address)))
                return f"the address {masked} in {field!r} cannot be written into the headers"
    return None


def describe_unicode_error(error: UnicodeError) -> ValueError:
    """Return the error to raise for ``error``, whose arguments hold the whole text: results are stored."""
    reason = getattr(error, "reason", "it cannot be encoded")
    return ValueError(
        f"a text of the message cannot be written ({reason}). Look for lone surrogates in its subject, body, "
        "headers and addresses; text.encode('utf-8', 'replace').decode() takes them out"
    )


def _render(backend: DjangoSMTP, message: EmailMessage, addresses: Sequence[str]) -> Letter:
    prepare = _choose_preparation(backend, message)
    sender = prepare(message.from_email)
    wire = {a: prepared for a in addresses if (prepared := _try_prepare(prepare, a)) is not None}
    utf8_headers = django.VERSION >= (6,) and not _has_ascii_headers(message)
    data = _serialise(message, utf8_headers)
    payload = _stuff_dots(data)
    if not payload.endswith(b"\r\n"):
        payload += b"\r\n"
        data += b"\r\n"
    return Letter(sender, wire, payload, len(data), not data.isascii(), utf8_headers)


def _stuff_dots(data: bytes) -> bytes:
    """Double the dot at the beginning of each line, so that none is taken for the end (RFC 5321 §4.5.2)."""
    return (b"\n" + data).replace(b"\n.", b"\n..")[1:]


def _try_prepare(prepare: _Prepare, address: str) -> str | None:
    """Return ``address`` for RCPT TO, or None where Django reads no mailbox from it."""
    try:
        return prepare(address)
    except (ValueError, *_PARSER_GIVES_UP):
        return None


def _has_ascii_headers(message: EmailMessage) -> bool:
    """Tell whether the headers need no UTF-8 (RFC 6532). They name all recipients, served here or not."""
    sender = str(message.extra_headers.get("From", message.from_email))
    named = [sender, *message.to, *message.cc, *message.reply_to]
    return all(_local_part(str(address)).isascii() for address in named)


def _serialise(message: EmailMessage, utf8_headers: bool) -> bytes:
    if django.VERSION >= (6,):
        policy = email.policy.SMTPUTF8 if utf8_headers else email.policy.SMTP
        return message.message(policy=policy).as_bytes()
    rendered = message.message()
    del rendered["Bcc"]  # a project's own header would name those who are to stay hidden
    del rendered["Resent-Bcc"]
    return bytes(rendered.as_bytes(linesep="\r\n"))  # type: ignore[call-arg]


def _choose_preparation(backend: DjangoSMTP, message: EmailMessage) -> _Prepare:
    """Return the function that turns an address into the form for MAIL FROM and RCPT TO."""
    if hasattr(backend, "prep_address"):  # Django 6

        def prepare(address: str) -> str:
            prepared: str = backend.prep_address(address, force_ascii=_local_part(address).isascii())
            return prepared

        return prepare
    from django.core.mail.message import sanitize_address  # type: ignore[attr-defined, unused-ignore]

    encoding = message.encoding or settings.DEFAULT_CHARSET

    def prepare_old(address: str) -> str:
        sanitized = str(sanitize_address(address, encoding))
        local = _local_part(address)
        if local.isascii():
            return sanitized
        return f"{local}@{punycode(parseaddr(address)[1].rpartition('@')[2])}"

    return prepare_old


def _local_part(address: str) -> str:
    return parseaddr(address)[1].rpartition("@")[0]
