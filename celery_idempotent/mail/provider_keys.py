"""The provider key of one hand-over: a new key, or the key under which a doubtful message was handed over."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import ClassVar

from ..encryption import CannotDecrypt, decrypt, encrypt
from ..ledger.entry import Entry
from ..ledger.keys import digest
from ..ledger.provider_offers import Offer
from .providers import Deduplication

logger = logging.getLogger("celery_idempotent")


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """Key that a transport sends along with one message."""

    longest_content: ClassVar[int] = 4 << 20
    """Octets that are kept encrypted at most; a longer message is handed over without a key."""

    key: str
    """The ledger's form: a digest of the account, and one that is unique to the hand-over."""
    provider: Deduplication
    is_repeated: bool = False
    """True for a second offer under the key: only its outcome can settle the doubt."""
    frozen: bytes = b""
    """Content of the first offer, to be sent again; empty where the provider does not compare contents."""

    @classmethod
    def create(cls, entry: Entry, provider: Deduplication | None, account: str) -> ProviderKey | None:
        """Return the key of the next hand-over, or None where the provider has no use for one.

        The key is a digest of the ledger's entry, so a ledger that was set back makes the same key. The
        provider recognises a hand-over that the ledger has forgotten.
        """
        if provider is None or provider.lacks_encryption_keys():
            return None
        unique = digest(entry.key, entry.generation, entry.attempts + 1)[:32]
        return cls(f"{_hash_account(provider, account)}-{unique}", provider)

    @classmethod
    def repeat(cls, entry: Entry, provider: Deduplication | None, account: str) -> ProviderKey | None:
        """Return the key under which ``account`` can settle the doubt of ``entry``, or None."""
        if not entry.provider_key or provider is None:
            return None
        if entry.provider_key.partition("-")[0] != _hash_account(provider, account):
            return None
        if not provider.compares_content:
            return cls(entry.provider_key, provider, True)
        try:
            frozen = decrypt(entry.sealed)
        except CannotDecrypt as error:
            logger.error("%s: %s cannot be offered again: %s", entry.email_type, entry.key, error)
            return None
        return cls(entry.provider_key, provider, True, frozen)

    @property
    def value(self) -> str:
        """Value of the header."""
        return self.provider.form(self.key)

    def offer(self, content: bytes) -> Offer | None:
        """Return the offer to write ahead; None where ``content`` would have to be kept and cannot be."""
        if not self.provider.compares_content:
            return Offer(self.key, self.provider.seconds)
        if not 0 < len(content) <= self.longest_content:
            return None
        return Offer(self.key, self.provider.seconds, encrypt(content))


def _hash_account(provider: Deduplication, account: str) -> str:
    """Return a short hash of provider and account: a key is only valid within one account."""
    return hashlib.sha256(f"{provider.name} {account}".encode()).hexdigest()[:12]
