"""Queries about logical emails, in the words of operators: stuck, unfinished, in doubt."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Count, Model, Q, QuerySet

from ..ledger.entry import After
from ..ledger.status import IN_FLIGHT, UNFINISHED, Status
from .clock import StoreNow, written

_Email = TypeVar("_Email", bound=Model)
_UNFINISHED = sorted(status.value for status in UNFINISHED)


class LogicalEmailQuerySet(QuerySet[_Email]):
    """Logical emails. Ages count by the database's own clock, in seconds."""

    def in_doubt(self) -> LogicalEmailQuerySet[_Email]:
        """Return the emails in doubt."""
        return self.filter(status=Status.IN_DOUBT.value)

    def stuck(self, seconds: float) -> LogicalEmailQuerySet[_Email]:
        """Return the emails that wait for somebody: unchanged for ``seconds``, and no retry is to come.

        Doubts are among them; the oldest come first.
        """
        passed = Q(deadline__isnull=True) | Q(deadline__lte=StoreNow())
        return self.filter(self._unchanged(seconds), passed, status__in=_UNFINISHED).order_by("updated_at")

    def unfinished(self, seconds: float = 0.0) -> LogicalEmailQuerySet[_Email]:
        """Return the emails sent whose body has not come to its end for ``seconds``; the oldest first.

        Of all that is sent they alone have a deadline: this is a probe of the index on status and deadline.
        """
        since = written(self.db, After(-seconds))
        return self.filter(status=Status.SENT.value, deadline__lte=since, unfinished=True).order_by("deadline")

    def overdue(self) -> LogicalEmailQuerySet[_Email]:
        """Return the emails in flight whose deadline has passed; the oldest first."""
        in_flight = [status.value for status in IN_FLIGHT]
        return self.filter(status__in=in_flight, deadline__lte=StoreNow()).order_by("deadline")

    def finished(self, seconds: float) -> LogicalEmailQuerySet[_Email]:
        """Return the finished emails that are unchanged for ``seconds``; the oldest first.

        Not "status in (what is finished)": SQLite would go through the index of all that is finished.
        """
        return self.filter(self._unchanged(seconds)).exclude(status__in=_UNFINISHED).order_by("updated_at")

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many emails there are, by email type and status."""
        grouped = self.order_by().values_list("email_type", "status").annotate(n=Count("pk"))
        return {(kind, status): n for kind, status, n in grouped}

    def _unchanged(self, seconds: float) -> Q:
        return Q(updated_at__lte=written(self.db, After(-seconds)))
