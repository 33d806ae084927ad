"""Errors of a delivery: the one to raise about unserved recipients, and which errors are temporary."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence

from ..exceptions import DeliveryInDoubt, DeliveryUnconfirmed, RecipientsDeferred, RecipientsRefused
from ..execution.run import Run
from ..ledger.addresses import mask_all
from ..ledger.entry import Delivery, DeliveryKey
from ..ledger.status import DeliveryStatus
from .smtp.reply_codes import Kind, ServerReply


def is_temporary(error: BaseException) -> bool:
    """Tell whether a failure to reach the mail server, to log in or to be served may pass by itself."""
    if isinstance(error, ssl.SSLCertVerificationError | smtplib.SMTPNotSupportedError | RecipientsRefused):
        return False
    if isinstance(error, smtplib.SMTPResponseException):
        return ServerReply.read(error.smtp_code, error.smtp_error).classify() is not Kind.PERMANENT
    return isinstance(error, OSError)


def raise_unserved(run: Run, keys: Sequence[DeliveryKey], wait: float | None, final: bool) -> None:
    """Raise `DeliveryInDoubt`, `RecipientsDeferred` or `RecipientsRefused` if one of ``keys`` is not served.

    The mail server wants no other attempt for ``wait`` seconds. A doubt is `DeliveryUnconfirmed` where the
    provider recognises the message and its answer is not ``final``.
    """
    known = run.known()
    rows = [known[key] for key in keys if key in known]
    name = run.claimant.email_type
    if doubtful := _with_status(rows, DeliveryStatus.IN_DOUBT, DeliveryStatus.SENDING):
        kind: type[Exception] = (
            DeliveryInDoubt if run.policy.in_doubt == "hold" else smtplib.SMTPServerDisconnected
        )
        if run.entry.provider_key and not final:
            kind = DeliveryUnconfirmed
        run.stopped_by = kind(f"{name}: no reply to the payload ({_describe(doubtful)})")
        raise run.stopped_by
    if deferred := _with_status(rows, DeliveryStatus.DEFERRED):
        raise RecipientsDeferred(
            f"{name}: refused for now: {_describe(deferred)}", *([] if wait is None else [wait])
        )
    if refused := _with_status(rows, DeliveryStatus.REFUSED):
        raise RecipientsRefused(f"{name}: refused for good: {_describe(refused)}")


def _with_status(rows: Sequence[Delivery], *statuses: DeliveryStatus) -> list[Delivery]:
    return [row for row in rows if row.status in statuses]


def _describe(rows: Sequence[Delivery]) -> str:
    """List recipients and reasons, all addresses masked: results and logs go further than the ledger."""
    shown = [f"{d.recipient.shown or d.recipient.digest[:12]} ({d.code or ''} {d.detail})" for d in rows[:5]]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return mask_all(", ".join(shown)) + more
