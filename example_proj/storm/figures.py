"""What came of a storm, asked of the mail server's record, the tasks' results, the ledger and the outbox."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from .crew import Crew
from .plan import Mail, Plan

READY = ("SUCCESS", "FAILURE", "REVOKED", "REJECTED")


@dataclass
class Figures:
    """What came of a storm.

    Copies are counted at the mail server, suppressed duplicates and answers in the tasks' results, wiped
    messages in the broker's folder, what was published again in the relay's log, doubt in the ledger.
    """

    logical: int
    events: int
    sent: int
    duplicates: int
    suppressed: int
    wiped: int
    republished: int
    unanswered: int
    """Events with neither a result nor, with an outbox, a mail that was sent or held for them."""
    lost: int
    in_doubt: int
    seconds: float


class Tally:
    """Counts for the task ``task_name``, in what the processes of ``crew`` have written down."""

    def __init__(self, task_name: str, plan: Plan, crew: Crew) -> None:
        from shop.celery import app

        self.task_name, self.plan, self.crew = task_name, plan, crew
        self.task = app.tasks[task_name]
        self.has_outbox = hasattr(self.task, "enqueue")

    def copies(self) -> Counter[Mail]:
        """Return how often the mail server took each mail."""
        lines = self.crew.record.read_text(encoding="utf-8").splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return Counter((int(row["subject"].split()[1]), to) for row in rows for to in row["to"])

    def answered(self) -> int:
        """Return how many events have a result."""
        return len(self._ended())

    def _ended(self) -> set[str]:
        from django_celery_results.models import TaskResult

        ended = TaskResult.objects.filter(task_name=self.task_name, status__in=READY)
        return set(ended.values_list("task_id", flat=True))

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
            republished=sum(map(int, re.findall(r"^relay: (\d+) published", self._relay_log(), re.MULTILINE))),
            unanswered=self._unanswered(copies, doubtful),
            lost=sum(mail not in copies and mail not in doubtful for mail in self.plan.mails),
            in_doubt=len(doubtful),
            seconds=round(seconds, 1),
        )

    def _relay_log(self) -> str:
        return self.crew.relay_log.read_text(encoding="utf-8")

    def _unanswered(self, copies: Counter[Mail], doubtful: set[Mail]) -> int:
        """Count events that came to no end.

        What the broker lost needs no result: the relay takes it out of the outbox once its mail is sent.
        """
        done, waiting = self._ended(), set[str]()
        if self.has_outbox:
            from celery_idempotent.models import OutboxMessage

            waiting = set(OutboxMessage.objects.values_list("task_id", flat=True))
        for task_id, mail in self.crew.events_out():
            is_sent = self.has_outbox and mail in copies and task_id not in waiting
            if is_sent or mail in doubtful:
                done.add(task_id)
        return len(self.plan.events) - len(done)

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
