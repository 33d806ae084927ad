"""Mail providers that recognise a message by an idempotency key, and the answers by which they say so.

Another provider is another `Deduplication`: docs/how-to/provider-keys.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid5

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..encryption import can_encrypt
from ..ledger.outcomes import Reply
from ..ledger.status import DeliveryStatus

__all__ = ["Deduplication", "Sign", "as_uuid"]

_DAY = 24 * 3600.0
_NAMESPACE = UUID("7c5a3d5e-6f0b-4d5f-9a63-0b3d1f6c2a11")


class Sign(NamedTuple):
    """Marks of a provider's answer: its status code, and words in its body."""

    code: int
    words: str = ""

    def fits(self, code: int | None, body: str) -> bool:
        """Tell whether an answer has these marks."""
        return code == self.code and self.words in body


def as_uuid(key: str) -> str:
    """Return ``key`` as a UUID, always the same."""
    return str(uuid5(_NAMESPACE, key))


@dataclass(frozen=True, slots=True)
class Deduplication:
    """A provider's promise about messages that it is offered again under the same key."""

    name: str
    header: str
    """Name of the header that carries the key."""
    seconds: float
    """How long a key is recognised at least, from its first use."""
    compares_content: bool = True
    """The provider refuses other content under a known key: the content sent has to be kept, encrypted."""
    in_message: bool = True
    """True for a header of the message, False for a header of the HTTP request."""
    form: Callable[[str], str] = str
    """Turns the ledger's key (45 characters of a-z, 0-9 and "-") into the provider's form of a key."""
    accepted_before: Sign | None = None
    """Error for a message that the provider has already. None: its answer is the same as the first time."""
    concurrent: Sign | None = None
    """Error for a key whose earlier offer is still being worked on."""
    mismatch: Sign | None = None
    """Error for a known key with other content."""

    def read(self, code: int | None, body: str) -> Reply | None:
        """Return the meaning of an answer about the key, or None of an answer about something else."""
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
        is_mismatch = (
            self.mismatch is not None and self.mismatch.code == reply.code and "other content" in reply.detail
        )
        return is_mismatch or reply.status is DeliveryStatus.REFUSED

    def lacks_encryption_keys(self) -> bool:
        """Tell whether content has to be kept encrypted, and the project has no key to do that with."""
        return self.compares_content and not can_encrypt()


# https://resend.com/docs/dashboard/emails/idempotency-keys: 24 hours, at most 256 characters.
_RESEND = Deduplication(
    "Resend",
    "Idempotency-Key",
    _DAY,
    in_message=False,
    concurrent=Sign(409, "concurrent_idempotent_requests"),
    mismatch=Sign(409, "invalid_idempotent_request"),
)
_RESEND_SMTP = Deduplication("Resend", "Resend-Idempotency-Key", _DAY)
# https://developers.brevo.com/docs/heterogenous-versions-batch-emails: a UUID, known for 30 minutes.
_BREVO = Deduplication(
    "Brevo",
    "idempotencyKey",
    25 * 60.0,
    compares_content=False,
    form=as_uuid,
    accepted_before=Sign(400, "duplicate_parameter"),
)
# https://docs.lettermint.co/platform/emails/idempotency: 24 hours from the first use, by SMTP as by the API.
_LETTERMINT_SMTP = Deduplication("Lettermint", "Idempotency-Key", _DAY)

SMTP: Mapping[str, Deduplication] = {"resend": _RESEND_SMTP, "lettermint": _LETTERMINT_SMTP}
"""Providers with an SMTP header, by the name for ``CELERY_IDEMPOTENT["PROVIDER"]``."""
API: Mapping[str, Deduplication] = {"Resend": _RESEND, "Brevo": _BREVO}
"""Providers with a key in their API, by Anymail's ``esp_name``."""


def find_provider(name: str | None) -> Deduplication | None:
    """Return the provider that the setting ``PROVIDER`` names. Raises `ImproperlyConfigured`."""
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
