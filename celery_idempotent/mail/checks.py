"""System checks of the mailers' providers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from ..mailers import usable_mailers
from ..sealing import HINT, can_seal
from .providers import Deduplication, provider


@register("celery_idempotent")
def check_providers(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """E002 an unknown provider, W025 one whose keys cannot be used for want of encryption keys."""
    found: list[CheckMessage] = []
    for mailer in usable_mailers():
        try:
            found += unsealed(mailer.alias, provider(mailer.provider))
        except ImproperlyConfigured as error:
            found.append(Error(f"mailer {mailer.alias!r}: {error}", id="celery_idempotent.E002"))
    return found


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
