"""Django's own mail settings: ``MAILERS`` of Django 6.1, or the ``EMAIL_…`` settings before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from django.utils.module_loading import import_string

from .conf import conf

SMTP = "django.core.mail.backends.smtp.EmailBackend"


@dataclass(frozen=True, slots=True)
class Mailer:
    """One mailer of the project: an alias, a backend, and the options of the backend."""

    alias: str
    path: str
    """Path of the backend that Django calls."""
    wrapped: str | None
    """Path of the backend that sends, where the ledger-aware one wraps it."""
    timeout: float | None
    """Seconds, for SMTP."""
    provider: str | None = None
    """Name of the provider whose idempotency keys are used, where the backend is the ledger-aware one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the wrapped backend."""


def _mailers() -> Iterator[Mailer]:
    """Yield the mailers that the settings define; before Django 6.1 there is one, ``"default"``."""
    configured = getattr(settings, "MAILERS", None)
    if configured is None:
        path = settings.EMAIL_BACKEND
        wrapped = conf.email_backend if _is_ours(path) else None
        yield Mailer("default", path, wrapped, settings.EMAIL_TIMEOUT, conf.provider)
        return
    for alias, mailer in configured.items():
        path, options = mailer.get("BACKEND", SMTP), mailer.get("OPTIONS", {})
        wrapped = options.get("backend", conf.email_backend) if _is_ours(path) else None
        named = options.get("provider")
        own = {name: value for name, value in options.items() if name not in ("backend", "provider")}
        provider = conf.provider if named is None else str(named)
        yield Mailer(alias, path, wrapped, options.get("timeout"), provider, {"alias": alias, **own})


def backend_in_place() -> bool:
    """Tell whether mail sent inside a task goes through the ledger-aware email backend."""
    return any(mailer.wrapped for mailer in _mailers() if mailer.alias == "default")


@lru_cache(maxsize=32)
def _is_ours(path: str) -> bool:
    """Tell whether the backend at ``path`` is ours or derives from it. Raises `ImproperlyConfigured`."""
    return bool(getattr(backend_at(path), "records_in_ledger", False))


def backend_at(path: str) -> type[BaseEmailBackend]:
    """Return the class of the email backend at ``path``. Raises `ImproperlyConfigured` where there is none."""
    try:
        return cast(type[BaseEmailBackend], import_string(path))
    except ImportError as error:
        raise ImproperlyConfigured(f"the email backend {path!r} cannot be imported: {error}") from error


def check_mailers() -> None:
    """Raise `ImproperlyConfigured` if a mailer, or the backend that sends for it, cannot be used."""
    for mailer in _mailers():
        if mailer.wrapped:
            backend_at(mailer.wrapped)


def usable_mailers() -> list[Mailer]:
    """Return the mailers for the checks; none if one cannot be used, as E002 reports."""
    try:
        check_mailers()
    except ImproperlyConfigured:
        return []
    return list(_mailers())
