"""``EMAIL_BACKEND``: writes every message of an idempotent task into the ledger, and passes all others on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangoSMTP
from django.utils.module_loading import import_string

from ..conf import conf
from ..exceptions import RecipientsDeferred, RecipientsRefused
from ..execution.run import Run, current_run
from ..execution.unserved_recipients import CONNECTION, NAMELESS
from .delivery_errors import is_temporary
from .handover import HandOver
from .providers import find_provider
from .smtp.rendering import describe_unicode_error
from .smtp.time_limits import limit_timeouts
from .transport_protocol import Transport
from .transport_selection import class_inside_tasks, transport_for

logger = logging.getLogger("celery_idempotent")


class EmailBackend(BaseEmailBackend):
    """Wraps the backend named by ``CELERY_IDEMPOTENT["EMAIL_BACKEND"]``, or by its own option ``backend``.

    The option ``provider`` names the provider whose idempotency keys are used, by default
    ``CELERY_IDEMPOTENT["PROVIDER"]``. All other options are the wrapped backend's. A message may carry
    ``idempotency_part``, a name that tells it from the body's other messages.
    """

    records_in_ledger = True

    def __init__(
        self,
        fail_silently: bool = False,
        *,
        alias: str | None = None,
        backend: str | None = None,
        provider: str | None = None,
        **options: Any,
    ) -> None:
        named: dict[str, Any] = {} if alias is None else {"alias": alias}  # MAILERS, from Django 6.1 on
        super().__init__(**named)
        self.fail_silently = fail_silently
        wrapped = import_string(backend or conf.email_backend)
        silent = {"fail_silently": True} if fail_silently else {}
        self._tracked: BaseEmailBackend = class_inside_tasks(wrapped)(**named, **options)
        self.provider = find_provider(conf.provider if provider is None else provider)
        self._passing: BaseEmailBackend = wrapped(**named, **options, **silent)

    def open(self) -> bool | None:
        """Open the wrapped backend's connection, which is the caller's until `close`."""
        run = current_run()
        if run is None or run.policy.opaque:
            return self._passing.open()
        if isinstance(self._tracked, DjangoSMTP):
            limit_timeouts(self._tracked, run.policy.send_timeout)
        try:
            return self._tracked.open()
        except Exception as error:
            run.unserved.note([CONNECTION], error, is_temporary(error))
            raise

    def close(self) -> None:
        """Close the wrapped backend's connections."""
        self._passing.close()
        self._tracked.close()

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Send ``email_messages`` and return how many the mail server has (now or from an earlier attempt).

        Inside an idempotent task it raises `RecipientsDeferred`, `RecipientsRefused`, or the `ValueError` of a
        message that cannot be written, once every message has been offered, and at once `DeliveryInDoubt`,
        `ClaimLost`, `LedgerUnavailable` and the wrapped backend's errors from before anything is sent.
        ``fail_silently`` does not apply there: a task can try again.
        """
        run = current_run()
        messages = list(email_messages)
        if run is None or run.policy.opaque or all(self._is_for_admins(message) for message in messages):
            return self._passing.send_messages(messages) or 0
        return self._send_tracked(run, messages)

    def _is_for_admins(self, message: EmailMessage) -> bool:
        """Tell whether a log handler sends this by `mail_admins`: a report on the task, and no part of it."""
        return self.fail_silently and message.from_email == settings.SERVER_EMAIL

    def _send_tracked(self, run: Run, messages: Iterable[EmailMessage]) -> int:
        transport = transport_for(self._tracked, self.provider)
        run.unserved.forget_connection_error()
        served = 0
        unserved: list[Exception] = []
        for message in messages:
            if run.stopped_by is not None:
                raise run.stopped_by
            if not message.recipients():
                logger.warning("%s: a message without recipients was not sent", run.claimant.email_type)
                continue
            try:
                self._hand_over(run, message, transport)
                served += 1
            except (RecipientsDeferred, RecipientsRefused, ValueError) as error:
                unserved.append(error)
        if unserved:  # one that a retry can mend before one that nothing can, the longest wait first
            raise max(unserved, key=_urgency)
        return served

    def _hand_over(self, run: Run, message: EmailMessage, transport: Transport) -> None:
        try:
            hand_over = HandOver(run, message, transport)
        except ValueError as found:
            error = describe_unicode_error(found) if isinstance(found, UnicodeError) else found
            run.unserved.note([NAMELESS], error, False)
            raise error from None
        hand_over.deliver()


def _urgency(error: Exception) -> float:
    if isinstance(error, RecipientsDeferred):
        return error.retry_after or 0.0
    return -1.0 if isinstance(error, RecipientsRefused) else -2.0
