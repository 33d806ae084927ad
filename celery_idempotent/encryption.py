"""Encryption at rest, with the project's keys, for what the ledger has to keep of a mail for a while."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .conf import conf

HINT = "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"


class CannotUnseal(Exception):
    """Raised when no key of the project opens what was sealed; its text quotes nothing of it."""


def can_seal() -> bool:
    """Tell whether the project has keys. Raises `ImproperlyConfigured` for keys that cannot be used."""
    return _box() is not None


def seal(content: bytes) -> str:
    """Return ``content`` encrypted and authenticated (Fernet: AES-128-CBC, HMAC-SHA256) with the first key."""
    box = _box()
    if box is None:
        raise ImproperlyConfigured("CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] is empty, so nothing can be sealed")
    return str(box.encrypt(content).decode("ascii"))


def unseal(text: str) -> bytes:
    """Return what `seal` was given, by any of the keys. Raises `CannotUnseal`."""
    box = _box()
    if box is None:
        raise CannotUnseal("CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] has no key any more")
    from cryptography.fernet import InvalidToken

    try:
        return bytes(box.decrypt(text.encode("ascii")))
    except (InvalidToken, ValueError):  # the latter for text that is no token at all
        raise CannotUnseal("no key in CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] opens it") from None


def check_keys() -> None:
    """Raise `ImproperlyConfigured` for keys that cannot be used."""
    _box()


def _box() -> Any:
    keys = conf.encryption_keys
    if not keys:
        return None
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise ImproperlyConfigured(
            "CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] needs the package cryptography: "
            "pip install celery-idempotent[encryption]"
        ) from error
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError as error:
        raise ImproperlyConfigured(
            "CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] has a key that is not 32 bytes in URL-safe base64. Make one "
            f"with {HINT}"
        ) from error
