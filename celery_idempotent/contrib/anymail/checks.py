"""System checks of the mailers that use Anymail: W024 about retries, W025 about encryption keys."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

from anymail.backends.base import AnymailBaseBackend
from django.apps import AppConfig
from django.core.checks import CheckMessage, Warning, register
from django.core.exceptions import ImproperlyConfigured

from ...mail.provider_checks import check_encryption_keys
from ...mail.providers import API
from ...mail_settings import Mailer, backend_at, usable_mailers
from .client_retries import count_tries


@register("celery_idempotent")
def _check_retries(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """W024 a client that sends a request again by itself, around the ledger. Asks no server."""
    return [
        Warning(
            f"mailer {alias!r}: the client of {path} may send one request {_times(count)} by itself. The "
            "ledger cannot see that: a reply that is lost is another copy",
            hint="Amazon SES: ANYMAIL = {'AMAZON_SES_CLIENT_PARAMS': {'config': {'retries': "
            "{'total_max_attempts': 1}}}}. A session of your own: retry connections alone, "
            "Retry(connect=2, read=0, status=0, other=0). Then the task retries, by the rules.",
            id="celery_idempotent.W024",
        )
        for alias, path, count in _clients()
        if count > 1
    ]


@register("celery_idempotent")
def _check_encryption_keys(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """W025 a provider whose keys cannot be used for want of encryption keys."""
    found: list[CheckMessage] = []
    for mailer, kind in _backends():
        try:
            found += check_encryption_keys(mailer.alias, API.get(str(kind.esp_name)))
        except ImproperlyConfigured:
            continue  # E002 says so
    return found


def _times(count: float) -> str:
    return "any number of times" if count == math.inf else f"{count:g} times"


def _backends() -> Iterator[tuple[Mailer, type[AnymailBaseBackend]]]:
    for mailer in usable_mailers():
        kind: type[object] = backend_at(mailer.wrapped) if mailer.wrapped else object
        if issubclass(kind, AnymailBaseBackend):
            yield mailer, kind


def _clients() -> Iterator[tuple[str, str, float]]:
    for mailer, kind in _backends():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Anymail's, about providers that it no longer tests
                backend = kind(**mailer.options)
                backend.open()
        except Exception:
            continue  # without a key or a region there is no client; sending fails with an error then
        try:
            yield mailer.alias, str(mailer.wrapped), count_tries(backend)
        finally:
            backend.close()
