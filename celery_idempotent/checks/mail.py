"""System checks of the mailers: backend, timeout and provider."""

from __future__ import annotations

from collections.abc import Sequence

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from ..mail.provider_checks import check_encryption_keys
from ..mail.providers import find_provider
from ..mail_settings import SMTP, Mailer, usable_mailers
from ..tasks.registry import functions, tasks
from .prerequisites import knowing_tasks


@register("celery_idempotent")
def _check_providers(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """E002 an unknown provider, W025 one whose keys cannot be used for want of encryption keys."""
    found: list[CheckMessage] = []
    for mailer in usable_mailers():
        try:
            found += check_encryption_keys(mailer.alias, find_provider(mailer.provider))
        except ImproperlyConfigured as error:
            found.append(Error(f"mailer {mailer.alias!r}: {error}", id="celery_idempotent.E002"))
    return found


@register("celery_idempotent")
@knowing_tasks
def check_mail(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """W020, W023 mail that goes around the ledger, W021 no timeout, E022 a backend that wraps itself."""
    from ..tasks.idempotent import IdempotentEmailTask

    names = [task.name for task in tasks() if isinstance(task, IdempotentEmailTask)]
    names += [declared.name for declared in functions() if declared.sends_mail]
    found: list[CheckMessage] = []
    for mailer in usable_mailers():
        if mailer.wrapped is None:
            found += _around_the_ledger(mailer, names)
        elif mailer.wrapped.startswith("celery_idempotent."):
            found.append(
                Error(
                    "CELERY_IDEMPOTENT['EMAIL_BACKEND'] names the backend that wraps; name the one that sends",
                    id="celery_idempotent.E022",
                )
            )
        elif mailer.wrapped == SMTP and mailer.timeout is None:
            found.append(
                Warning(
                    f"mailer {mailer.alias!r} has no timeout: a mail server that stalls holds a worker "
                    "for all of send_timeout, before the payload and again after it",
                    hint="Set EMAIL_TIMEOUT (or the option 'timeout' in MAILERS) to some seconds, such as 30.",
                    id="celery_idempotent.W021",
                )
            )
    return found


def _around_the_ledger(mailer: Mailer, names: Sequence[str]) -> list[CheckMessage]:
    if not names:
        return []
    if mailer.alias != "default":
        return [
            Warning(
                f"what an idempotent task sends with using={mailer.alias!r} goes around the ledger",
                hint="Give that mailer BACKEND 'celery_idempotent.mail.EmailBackend', the one that sends as "
                "its option 'backend'; or silence this check if no idempotent task uses it.",
                id="celery_idempotent.W023",
            )
        ]
    return [
        Warning(
            f"the bodies of {', '.join(names)} are opaque to the ledger: mail does not go through it",
            hint='Set EMAIL_BACKEND (or BACKEND in MAILERS) to "celery_idempotent.mail.EmailBackend" and name '
            'the backend that sends in CELERY_IDEMPOTENT["EMAIL_BACKEND"].',
            id="celery_idempotent.W020",
        )
    ]
