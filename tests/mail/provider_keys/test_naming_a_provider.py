"""Which key goes out: the one of the provider that is named, beside no other, and none without it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage, get_connection

from celery_idempotent import IdempotentEmailTask, Status
from celery_idempotent.mail import providers
from celery_idempotent.mail.providers import Deduplication
from tests.mail.provider_keys.confirmations import (
    KEY,
    app,
    configured,
    entry,
    send,
)
from tests.support.held_doubts import is_held
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.providers import KeyedSMTP


def test_without_encryption_keys_it_is_held_as_ever(settings: Any) -> None:
    """What cannot be kept cannot be offered again; no key goes out that would promise it."""
    configured(settings, ENCRYPTION_KEYS=[])
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert is_held(send(server, settings).result)
    assert server.keys == [None]
    assert entry().status is Status.IN_DOUBT


def test_without_a_provider_no_header_goes_out(settings: Any) -> None:
    """Off unless asked for."""
    configured(settings, PROVIDER=None)
    with KeyedSMTP() as server:
        assert send(server, settings).get() == "sent 1"
    assert server.keys == [None]


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="own-header")
def with_own_header(order: int, name: str) -> str:
    message = EmailMessage("Yours", f"{random.random()}", to=["ann@example.com"], headers={name: "my own key"})
    message.send()
    return str(message.extra_headers)


@pytest.mark.parametrize("name", ["Resend-Idempotency-Key", "RESEND-IDEMPOTENCY-KEY", "resend-idempotency-key"])
@pytest.mark.parametrize("keys", [True, False])
def test_a_projects_own_key_does_not_go_beside_the_ledgers(settings: Any, name: str, keys: bool) -> None:
    """P1: one header, of the key that the ledger knows and can offer again; without one, the project's."""
    configured(settings, ENCRYPTION_KEYS=[KEY] if keys else [])
    with KeyedSMTP(dot=[DROP_AFTER_ACCEPT, "250 ok"] if keys else "250 ok") as server:
        settings.EMAIL_PORT = server.port
        assert with_own_header.apply((1, name)).get() == str({name: "my own key"}), "the message is as it was"
    assert len(server.accepted) == 1
    went = server.accepted[0].headers.get_all("Resend-Idempotency-Key")
    assert len(went) == 1
    assert (went == ["my own key"]) is not keys
    assert len(set(server.keys)) == 1


MINE = Deduplication("Mine", "X-Once", 3600.0)


@pytest.mark.parametrize("name", [f"{__name__}.MINE", "lettermint", "resend"])
def test_a_provider_is_named(settings: Any, name: str) -> None:
    """By its name, or by the path of one's own."""
    configured(settings, PROVIDER=name)
    header = providers.find_provider(name).header  # type: ignore[union-attr]
    with KeyedSMTP(header, dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        assert send(server, settings).get() == "sent 1"
    assert len(server.accepted) == 1


def test_a_mailer_names_its_own_provider(settings: Any) -> None:
    """The option of a mailer wins; an empty one is none."""
    backend = "celery_idempotent.mail.EmailBackend"
    assert get_connection(backend, provider="lettermint").provider is providers.SMTP["lettermint"]
    assert get_connection(backend, provider="").provider is None
    assert get_connection(backend).provider is providers.SMTP["resend"]


@pytest.mark.parametrize("name", ["nobody", "tests.nowhere.X", f"{__name__}.KEY"])
def test_a_provider_that_is_none_is_an_error(settings: Any, name: str) -> None:
    """The message names the setting and what it can be."""
    configured(settings, PROVIDER=name)
    with pytest.raises(ImproperlyConfigured, match=r"PROVIDER.*'resend'"):
        get_connection("celery_idempotent.mail.EmailBackend")
