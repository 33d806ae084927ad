"""The content of a mail in Redis: ciphertext while it may be needed, and then gone."""

from __future__ import annotations

from cryptography.fernet import Fernet

from tests.anymail.conftest import KEY
from tests.support.redis_contents import TOKEN, shows


def unreadable(text: bytes, *secrets: str) -> None:
    """Assert that ``text`` has one sealed content, which has the ``secrets``, and shows none of them."""
    (token,) = set(TOKEN.findall(text))
    content = Fernet(KEY).decrypt(token).decode()
    for secret in secrets:
        assert secret in content, "the test would look for the wrong words"
        assert not shows(text, secret)


def gone(text: bytes, *secrets: str) -> None:
    """Assert that ``text`` has no sealed content any more, and nothing of the ``secrets`` in any form."""
    assert not TOKEN.findall(text)
    assert not [secret for secret in secrets if shows(text, secret)]
