"""Resend by SMTP, with keys to keep content, for every test in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_idempotent.testing import speed_up
from tests.mail.provider_keys.confirmations import KEY, configured
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.providers import KeyedSMTP


@pytest.fixture(autouse=True)
def _keyed(_ledger: None, settings: Any) -> Iterator[None]:
    """Tries follow each other at once."""
    configured(settings, PROVIDER="resend", ENCRYPTION_KEYS=[KEY])
    with speed_up():
        yield


@pytest.fixture
def silent(settings: Any) -> Iterator[KeyedSMTP]:
    """A server that takes what is new to it, and never says so."""
    with KeyedSMTP(dot=DROP_AFTER_ACCEPT) as server:
        settings.EMAIL_PORT = server.port
        yield server
