"""Encrypts message contents and arguments at rest, with the project's ``ENCRYPTION_KEYS``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

from .conf import conf

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

HINT = "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"


class CannotDecrypt(Exception):
    """Raised when no key of the project opens a text; the message quotes nothing of the text."""


def can_encrypt() -> bool:
    """Tell whether the project has keys. Raises `ImproperlyConfigured` for keys that cannot be used."""
    return _cipher() is not None


def encrypt(content: bytes) -> str:
    """Return ``content`` encrypted and authenticated (Fernet: AES-128-CBC, HMAC-SHA256) with the first key."""
    cipher = _cipher()
    if cipher is None:
        raise ImproperlyConfigured("CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] is empty, so nothing can be encrypted")
    return str(cipher.encrypt(content).decode("ascii"))


def decrypt(text: str) -> bytes:
    """Return the content that `encrypt` was given, by any of the keys. Raises `CannotDecrypt`."""
    cipher = _cipher()
    if cipher is None:
        raise CannotDecrypt("CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] has no key any more")
    from cryptography.fernet import InvalidToken

    try:
        return bytes(cipher.decrypt(text.encode("ascii")))
    except (InvalidToken, ValueError):  # ValueError: the text is no token at all
        raise CannotDecrypt("no key in CELERY_IDEMPOTENT['ENCRYPTION_KEYS'] opens it") from None


def check_keys() -> None:
    """Raise `ImproperlyConfigured` for keys that cannot be used."""
    _cipher()


def _cipher() -> MultiFernet | None:
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
