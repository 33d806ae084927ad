"""Mail providers that recognise a message by an idempotency key, and how they say so.

One more is one more `Deduplication`: docs/how-to/provider-keys.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid5

from django.core.checks import CheckMessage, Warning
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..encryption import HINT, can_seal, seal
from ..ledger.outcomes import Reply
from ..ledger.provider_offers import Offer
from ..ledger.status import DeliveryStatus

__all__ = ["Deduplication", "Sign", "as_uuid"]

_DAY = 24 * 3600.0
_NAMESPACE = UUID("7c5a3d5e-6f0b-4d5f-9a63-0b3d1f6c2a11")


class Sign(NamedTuple):
    """How a provider's answer is told: its status code, and words that its body has."""

    code: int
    words: str = ""

    def fits(self, code: int | None, body: str) -> bool:
        """Tell whether an answer is this one."""
        return code == self.code and self.words in body


def as_uuid(key: str) -> str:
    """Return ``key`` as a UUID, always the same."""
    return str(uuid5(_NAMESPACE, key))


@dataclass(frozen=True, slots=True)
class Deduplication:
    """What a provider promises of a message that it is offered again under the same key."""

    name: str
    header: str
    """Name of the header that carries the key."""
    seconds: float
    """For how long a key is recognised at least, from when it was first used."""
    compares_content: bool = True
    """It refuses other content under a known key: what was sent has to be kept, encrypted, to be sent again."""
    in_message: bool = True
    """The header is one of the message's own. False: of the HTTP request that carries it."""
    form: Callable[[str], str] = str
    """Turns the ledger's key (45 characters of a-z, 0-9 and "-") into one that the provider takes."""
    accepted_before: Sign | None = None
    """The error by which it says that it has the message already. None: it answers as it did the first time."""
    concurrent: Sign | None = None
    """The error by which it says that an earlier offer is still being worked on."""
    mismatch: Sign | None = None
    """The error by which it says that it knows the key, with other content."""

    def read(self, code: int | None, body: str) -> Reply | None:
        """Return what an answer says about the key, or None where it says nothing about it."""
        for sign, status, text in (
            (self.accepted_before, DeliveryStatus.ACCEPTED, "accepted before"),
            (self.concurrent, DeliveryStatus.IN_DOUBT, "an earlier offer is being worked on"),
            (self.mismatch, DeliveryStatus.IN_DOUBT, "the key is known with other content"),
        ):
            if sign is not None and sign.fits(code, body):
                return Reply(status, code, f"{self.name}: {text}")
        return None

    def is_final(self, reply: Reply) -> bool:
        """Tell whether offering the message again under this key would be answered in the same way."""
        told = (
            self.mismatch is not None and self.mismatch.code == reply.code and "other content" in reply.detail
        )
        return told or reply.status is DeliveryStatus.REFUSED


# https://resend.com/docs/dashboard/emails/idempotency-keys: 24 hours, at most 256 characters.
RESEND = Deduplication(
    "Resend",
    "Idempotency-Key",
    _DAY,
    in_message=False,
    concurrent=Sign(409, "concurrent_idempotent_requests"),
    mismatch=Sign(409, "invalid_idempotent_request"),
)
RESEND_SMTP = Deduplication("Resend", "Resend-Idempotency-Key", _DAY)
# https://developers.brevo.com/docs/heterogenous-versions-batch-emails: a UUID, known for 30 minutes.
BREVO = Deduplication(
    "Brevo",
    "idempotencyKey",
    25 * 60.0,
    compares_content=False,
    form=as_uuid,
    accepted_before=Sign(400, "duplicate_parameter"),
)
# https://docs.lettermint.co/platform/emails/idempotency: 24 hours from the first use, by SMTP as by the API.
LETTERMINT_SMTP = Deduplication("Lettermint", "Idempotency-Key", _DAY)

SMTP: Mapping[str, Deduplication] = {"resend": RESEND_SMTP, "lettermint": LETTERMINT_SMTP}
"""Providers with an SMTP header, by the name for ``CELERY_IDEMPOTENT["PROVIDER"]``."""


def provider(name: str | None) -> Deduplication | None:
    """Return the provider that the setting names. Raises `ImproperlyConfigured`."""
    if not name:
        return None
    if name in SMTP:
        return SMTP[name]
    try:
        found = import_string(name)
    except ImportError:
        found = None
    if isinstance(found, Deduplication):
        return found
    raise ImproperlyConfigured(
        f"CELERY_IDEMPOTENT['PROVIDER'] is {name!r}; it can be {', '.join(map(repr, SMTP))}, the dotted path "
        "of a celery_idempotent.mail.providers.Deduplication, or None"
    )


def unsealed(alias: str, used: Deduplication | None) -> list[CheckMessage]:
    """Return W025 if doubts about ``used`` are held although the provider could resolve them."""
    if used is None or not used.compares_content or can_seal():
        return []
    return [
        Warning(
            f"mailer {alias!r}: {used.name} recognises a mail by its key and compares its content. That would "
            "have to be kept until the reply, and there is no key to encrypt it with: what is in doubt is held",
            hint=f"Set CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] to a list with a key made by: {HINT}",
            id="celery_idempotent.W025",
        )
    ]


LONGEST_CONTENT = 4 << 20
"""Octets that are kept encrypted at most; a longer message is handed over without a key."""


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """What a transport sends along."""

    key: str
    """As the ledger keeps it: whose account, and what is unique about the hand-over."""
    provider: Deduplication
    again: bool = False
    """It goes out once more: only its outcome can settle what is in doubt."""
    frozen: bytes = b""
    """The content to send instead of what has been rendered now; empty where that does not matter."""

    @property
    def value(self) -> str:
        """The header's value."""
        return self.provider.form(self.key)

    def offer(self, content: bytes) -> Offer | None:
        """Return what is written ahead; None where ``content`` would have to be kept and cannot be."""
        if not self.provider.compares_content:
            return Offer(self.key, self.provider.seconds)
        if not 0 < len(content) <= LONGEST_CONTENT:
            return None
        return Offer(self.key, self.provider.seconds, seal(content))
