"""The settings: one dict, ``CELERY_IDEMPOTENT``, read live so that `override_settings` works."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

DEFAULTS: dict[str, object] = {
    "NAMESPACE": "",
    "LEDGER": "auto",
    "DATABASE": "default",
    "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
    "RETENTION": timedelta(days=90),
    "MESSAGE_ID_DOMAIN": None,
    "RECIPIENTS": "masked",
    "RECIPIENT_SALT": None,
    "REDIS_WAIT": None,
    "CLASSIFY_REPLY": None,
    "CONNECTION_IDLE": 30.0,
    "OUTBOX_DATABASES": ("default",),
    "REDELIVER_AFTER": 900,
    "PROVIDER": None,
    "ENCRYPTION_KEYS": (),
}
_RECIPIENT_FORMS = ("masked", "plain", "digest")


class _Conf:
    """The settings as attributes. Unknown names and values are refused by the system checks."""

    def _get(self, name: str) -> object:
        given = getattr(settings, "CELERY_IDEMPOTENT", {})
        if not isinstance(given, dict):
            raise ImproperlyConfigured("CELERY_IDEMPOTENT has to be a dict")
        return given.get(name, DEFAULTS[name])

    @property
    def namespace(self) -> str:
        """Sets several projects on one store apart. Part of every key."""
        return str(self._get("NAMESPACE"))

    @property
    def ledger(self) -> str:
        """``"auto"``, ``"database"``, ``"memory://"``, a Redis URL, or the dotted path of a `Store` factory."""
        return str(self._get("LEDGER"))

    @property
    def database(self) -> str:
        """Alias of the database that keeps the ledger."""
        return str(self._get("DATABASE"))

    @property
    def email_backend(self) -> str:
        """Dotted path of the Django email backend that is wrapped."""
        return str(self._get("EMAIL_BACKEND"))

    @property
    def retention(self) -> timedelta:
        """How long finished entries are kept."""
        value = self._get("RETENTION")
        if not isinstance(value, timedelta) or value <= timedelta(0):
            raise ImproperlyConfigured("CELERY_IDEMPOTENT['RETENTION'] has to be a positive timedelta")
        return value

    @property
    def redis_wait(self) -> tuple[int, int] | None:
        """(replicas, milliseconds): a write-ahead counts once so many replicas have it. None: at once."""
        value = self._get("REDIS_WAIT")
        if value is None:
            return None
        if not (isinstance(value, tuple | list) and len(value) == 2) or not all(
            isinstance(part, int) and part > 0 for part in value
        ):
            raise ImproperlyConfigured(
                "CELERY_IDEMPOTENT['REDIS_WAIT'] has to be (replicas, milliseconds), such as (1, 100), or None"
            )
        return value[0], value[1]

    @property
    def classify_reply(self) -> Callable[[int, str], str | None] | None:
        """Reads a mail server's replies before the table does: ``callable(code, text)`` -> a `Kind` or None."""
        value = self._get("CLASSIFY_REPLY")
        if isinstance(value, str):
            try:
                value = import_string(value)
            except ImportError as error:
                raise ImproperlyConfigured(f"CELERY_IDEMPOTENT['CLASSIFY_REPLY']: {error}") from error
        if value is not None and not callable(value):
            raise ImproperlyConfigured(
                "CELERY_IDEMPOTENT['CLASSIFY_REPLY'] has to be a callable(code, text), its dotted path, or None"
            )
        return cast("Callable[[int, str], str | None] | None", value)

    @property
    def connection_idle(self) -> float:
        """Seconds for which an SMTP connection is kept open for the next message; 0: it is closed at once."""
        value = self._get("CONNECTION_IDLE")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ImproperlyConfigured(
                "CELERY_IDEMPOTENT['CONNECTION_IDLE'] has to be a number of seconds; 0: a connection a message"
            )
        return float(value)

    @property
    def provider(self) -> str | None:
        """Name, or dotted path, of the mail provider whose idempotency keys are used. None: of none by SMTP."""
        value = self._get("PROVIDER")
        return None if value is None else str(value)

    @property
    def encryption_keys(self) -> tuple[str, ...]:
        """Fernet keys for arguments in the outbox and for frozen messages; the first one encrypts.

        Without keys the former are kept as they are, and the latter not at all.
        """
        return _texts("ENCRYPTION_KEYS", self._get("ENCRYPTION_KEYS"), "Fernet keys", least=0)

    @property
    def message_id_domain(self) -> str | None:
        """Right-hand side of Message-IDs; None: this host's name, as in Django."""
        value = self._get("MESSAGE_ID_DOMAIN")
        return None if value is None else str(value)

    @property
    def recipients(self) -> str:
        """How addresses are stored beside their digest: ``"masked"``, ``"plain"`` or ``"digest"`` (not)."""
        value = str(self._get("RECIPIENTS"))
        if value not in _RECIPIENT_FORMS:
            raise ImproperlyConfigured(f"CELERY_IDEMPOTENT['RECIPIENTS'] has to be one of {_RECIPIENT_FORMS}")
        return value

    @property
    def recipient_salt(self) -> str:
        """Key of the recipients' HMAC; ``SECRET_KEY`` unless set."""
        return str(self._get("RECIPIENT_SALT") or settings.SECRET_KEY)

    @property
    def outbox_databases(self) -> tuple[str, ...]:
        """Aliases of the databases that have an outbox: those in which the project's own data is written."""
        return _texts("OUTBOX_DATABASES", self._get("OUTBOX_DATABASES"), "aliases of DATABASES", least=1)

    @property
    def redeliver_after(self) -> float:
        """Seconds after which a message whose email has no end yet is published again; doubled each time."""
        value = self._get("REDELIVER_AFTER")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ImproperlyConfigured(
                "CELERY_IDEMPOTENT['REDELIVER_AFTER'] has to be a positive number of seconds"
            )
        return float(value)


def _texts(name: str, value: object, meaning: str, least: int) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text for text in value):
        raise ImproperlyConfigured(f"CELERY_IDEMPOTENT['{name}'] has to be a list of {meaning}")
    if len(value) < least:
        raise ImproperlyConfigured(f"CELERY_IDEMPOTENT['{name}'] is empty; it has to be a list of {meaning}")
    return tuple(value)


conf = _Conf()
