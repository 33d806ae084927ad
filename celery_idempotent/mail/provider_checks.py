"""The system check W025: a provider's keys cannot settle doubts for want of encryption keys.

The checks of SMTP's mailers and of Anymail's share it.
"""

from __future__ import annotations

from django.core.checks import CheckMessage, Warning

from ..encryption import HINT
from .providers import Deduplication


def check_encryption_keys(alias: str, provider: Deduplication | None) -> list[CheckMessage]:
    """Return W025 if doubts of the mailer ``alias`` are held although ``provider`` could resolve them."""
    if provider is None or not provider.lacks_encryption_keys():
        return []
    return [
        Warning(
            f"mailer {alias!r}: {provider.name} recognises a mail by its key and compares its content. "
            "That would have to be kept until the reply, and there is no key to encrypt it with: what is in "
            "doubt is held",
            hint=f"Set CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] to a list with a key made by: {HINT}",
            id="celery_idempotent.W025",
        )
    ]
