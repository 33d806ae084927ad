"""The provider key of one hand-over: a new one, or the one under which what is in doubt was handed over."""

from __future__ import annotations

import hashlib
import logging

from ..encryption import CannotUnseal, can_seal, unseal
from ..ledger.entry import Entry
from ..ledger.keys import digest
from ..ledger.outcomes import Target
from .providers import Deduplication, ProviderKey
from .transport_protocol import Transport

logger = logging.getLogger("celery_idempotent")


def new_key(entry: Entry, transport: Transport) -> ProviderKey | None:
    """Return the key of the next hand-over, or None where the provider has no use for one.

    It is made from what the ledger knows, so that a ledger which was set back makes the same one: the provider
    recognises what the ledger has forgotten.
    """
    provider = transport.provider
    if provider is None or (provider.compares_content and not can_seal()):
        return None
    unique = digest(entry.key, entry.generation, entry.attempts + 1)[:32]
    return ProviderKey(f"{_account(provider, transport)}-{unique}", provider)


def known_key(entry: Entry, transport: Transport) -> ProviderKey | None:
    """Return the key under which the doubt of ``entry`` can be settled by ``transport``, or None."""
    provider = transport.provider
    if not entry.provider_key or provider is None:
        return None
    if entry.provider_key.partition("-")[0] != _account(provider, transport):
        return None
    if not provider.compares_content:
        return ProviderKey(entry.provider_key, provider, True)
    try:
        frozen = unseal(entry.sealed)
    except CannotUnseal as error:
        logger.error("%s: %s cannot be offered again: %s", entry.email_type, entry.key, error)
        return None
    return ProviderKey(entry.provider_key, provider, True, frozen)


def keys_in_doubt(entry: Entry) -> set[tuple[str, str]]:
    """Return the places, (part, digest), of what is in doubt."""
    return {d.place for d in entry.doubtful_deliveries()}


def delivery_key(target: Target) -> tuple[str, str]:
    """Return the place of ``target`` among the deliveries."""
    return target[0], target[1].digest


def _account(provider: Deduplication, transport: Transport) -> str:
    """Return what sets the accounts at all providers apart: another one would not recognise a key."""
    return hashlib.sha256(f"{provider.name} {transport.account}".encode()).hexdigest()[:12]
