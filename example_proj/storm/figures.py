"""What came of a storm, asked of the mail server's record, the tasks' results, the ledger and the outbox."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import Mail, Plan

READY = ("SUCCESS", "FAILURE", "REVOKED", "REJECTED")


@dataclass
class Figures:
    """What came of a storm.

    Copies are counted at the mail server, suppressed duplicates in the tasks' results, wiped messages in the
    broker's folder, doubt in the ledger.
    """

    logical: int
    events: int
    sent: int
    duplicates: int
    suppressed: int
    wiped: int
    lost: int
    in_doubt: int
    seconds: float


class Tally:
    """Counts for the task ``task_name``. ``record`` is what the mail server has written down."""

    def __init__(self, task_name: str, plan: Plan, record: Path) -> None:
        from shop.celery import app

        self.task_name, self.plan, self.record = task_name, plan, record
        self.task = app.tasks[task_name]
        self.has_outbox = hasattr(self.task, "enqueue")

    def copies(self) -> Counter[Mail]:
        """Return how often the mail server took each mail."""
        lines = self.record.read_text(encoding="utf-8").splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return Counter((int(row["subject"].split()[1]), to) for row in rows for to in row["to"])

    def answered(self) -> int:
        """Return how many events have come to an end."""
        from django_celery_results.models import TaskResult

        return int(TaskResult.objects.filter(task_name=self.task_name, status__in=READY).count())

    def is_done(self, answered: int) -> bool:
        """Tell whether every event is answered; with an outbox, whether nothing waits but what is in doubt."""
        if not self.has_outbox:
            return answered >= len(self.plan.events)
        from celery_idempotent.models import LogicalEmail, OutboxMessage

        doubtful = LogicalEmail.objects.filter(status="in_doubt").values_list("key", flat=True)
        return not OutboxMessage.objects.exclude(key__in=list(doubtful)).exists()

    def figures(self, wiped: int, seconds: float) -> Figures:
        """Return what came of it all."""
        copies, doubtful = self.copies(), self._doubtful()
        return Figures(
            logical=len(self.plan.mails),
            events=len(self.plan.events),
            sent=len(copies),
            duplicates=copies.total() - len(copies),
            suppressed=self._suppressed(),
            wiped=wiped,
            lost=sum(mail not in copies and mail not in doubtful for mail in self.plan.mails),
            in_doubt=len(doubtful),
            seconds=round(seconds, 1),
        )

    def _suppressed(self) -> int:
        from django_celery_results.models import TaskResult

        done = TaskResult.objects.filter(task_name=self.task_name, status="SUCCESS")
        notes = [
            json.loads(meta or "{}").get("celery_idempotent", {})
            for meta in done.values_list("meta", flat=True)
        ]
        return sum(note.get("outcome") == "duplicate" for note in notes)

    def _doubtful(self) -> set[Mail]:
        if not self.has_outbox:
            return set()
        entries = {mail: self.task.entry_for(*mail) for mail in self.plan.mails}
        return {mail for mail, entry in entries.items() if entry and entry.status == "in_doubt"}
