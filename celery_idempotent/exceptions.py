"""The errors of the package.

All of them pickle and cross Celery's result backends intact.
"""

from __future__ import annotations

from smtplib import SMTPException

__all__ = [
    "ArgumentsNotSerializable",
    "ClaimLost",
    "DeliveryInDoubt",
    "DeliveryUnconfirmed",
    "EntryChanged",
    "EntryUnreadable",
    "IdempotencyError",
    "InProgress",
    "InterventionRefused",
    "KeyFieldError",
    "LedgerUnavailable",
    "PayloadMismatch",
    "RecipientsDeferred",
    "RecipientsRefused",
    "TransitionForbidden",
    "UnsafeTransaction",
]


class IdempotencyError(Exception):
    """Root of the errors that this package raises at run time. Reads as its message, whatever it carries."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class KeyFieldError(IdempotencyError, ValueError):
    """Raised when a key field is missing from a call, its value has no canonical form, or a window is none."""


class ArgumentsNotSerializable(IdempotencyError, TypeError):
    """Raised by ``enqueue`` for arguments that cannot be kept in the outbox. Nothing was written."""


class PayloadMismatch(IdempotencyError):
    """Raised when a key comes back with other content and the task says ``on_mismatch="raise"``."""


class LedgerUnavailable(IdempotencyError):
    """Raised when the ledger cannot be read or written. Nothing was sent; the task is tried again."""


class EntryUnreadable(IdempotencyError):
    """Raised when the store holds something under a key that this version cannot read. Nothing was sent.

    Never overwritten and never tried again: it may be a newer version's entry, or another program's data.
    """


class UnsafeTransaction(IdempotencyError):
    """Raised when a send would have to be recorded inside the caller's own open transaction."""


class ClaimLost(IdempotencyError):
    """Raised when another run has taken the claim over. Nothing was sent by this run since.

    ``args[1]`` is the task id of the run that holds the entry now, where it is known.
    """

    @property
    def owner(self) -> str | None:
        """Task id of the run that holds the entry now."""
        return self.args[1] if len(self.args) > 1 else None


class TransitionForbidden(RuntimeError):
    """Raised when this package would write a status that may not follow the stored one: a mistake in its code.

    Nothing was written. Please report it with the message. No `IdempotencyError`, as those are handled where
    the ledger may have been away, and a mistake must not be hidden there.
    """


class InProgress(IdempotencyError):
    """Raised when another task is working on the same key and the task says ``on_conflict="raise"``.

    ``args[1]`` is the number of seconds after which it is worth asking again.
    """

    @property
    def retry_after(self) -> float:
        """Seconds after which it is worth asking again."""
        return float(self.args[1]) if len(self.args) > 1 else 0.0


class DeliveryInDoubt(IdempotencyError):
    """Raised when the outcome of a hand-over is unknown and the task says ``in_doubt="hold"``.

    Never retried automatically: the mail server may hold the mail (RFC 1047).
    """


class DeliveryUnconfirmed(DeliveryInDoubt):
    """Raised when a hand-over got no reply, and the provider would recognise the mail if it came again.

    The task comes back by itself, without spending its retries, and offers the same under the same key.
    """


class InterventionRefused(IdempotencyError):
    """Raised when an operator's decision does not fit the entry, or something may still be running."""


class EntryChanged(InterventionRefused):
    """Raised when an operator decides about an entry that somebody else has changed meanwhile."""


class RecipientsDeferred(IdempotencyError, SMTPException):
    """Raised when the mail server refused some recipients for now (4xx). A retry offers it to them alone.

    An `smtplib.SMTPException`, so that ``autoretry_for=(SMTPException,)`` covers it. ``args[1]`` is the number
    of seconds that the server wants a retry to wait, where it says so or is known to greylist (RFC 6647).
    """

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the retry is worth while, or None: the task's own backoff decides."""
        return float(self.args[1]) if len(self.args) > 1 and self.args[1] is not None else None

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # an OSError takes two arguments for errno and strerror


class RecipientsRefused(IdempotencyError, SMTPException):
    """Raised when the mail server refused recipients for good (5xx); everyone else is settled.

    Also where a provider refused a request for several and named nobody: a later call offers it to them again.
    """
