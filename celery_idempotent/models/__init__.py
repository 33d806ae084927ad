"""The tables of ledger and outbox.

Constraints and choices derive from `ledger.status`; nothing here decides.

Columns of text are indexed by `Meta`, not by ``unique`` or ``db_index``: on PostgreSQL Django would add to each
a second index for ``LIKE``, and every email would pay for those, at a random place of each. The foreign keys do
without an index of their own: the unique constraints begin with them.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from ..ledger.status import IN_FLIGHT, DeliveryStatus, Status
from .queries import LogicalEmailQuerySet

__all__ = ["Delivery", "LogicalEmail", "OutboxMessage", "SendAttempt"]


def _choices(enum: type[Status] | type[DeliveryStatus]) -> list[tuple[str, str]]:
    return [(member.value, member.value.replace("_", " ")) for member in enum]


def _known(field: str, enum: type[Status] | type[DeliveryStatus]) -> Q:
    return Q(**{f"{field}__in": [member.value for member in enum]})


class LogicalEmail(models.Model):
    """One intended email: the row behind an `Entry`."""

    key = models.CharField(max_length=80, editable=False)
    email_type = models.CharField(max_length=200)
    label = models.CharField(max_length=255, blank=True, help_text="The key fields, addresses masked.")
    status = models.CharField(max_length=16, choices=_choices(Status))
    version = models.BigIntegerField(help_text="Fencing token: grows with every change.")
    claim_id = models.CharField(max_length=32, blank=True, editable=False)
    generation = models.PositiveIntegerField(default=1)
    owner = models.CharField("task id", max_length=255)
    deadline = models.DateTimeField(null=True)
    fingerprint = models.CharField(max_length=64, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    arrivals = models.PositiveIntegerField(default=1)
    result = models.JSONField(null=True)
    error = models.CharField(max_length=200, blank=True)
    unfinished = models.BooleanField(default=False, help_text="Sent, but its body has not come to its end.")
    participants = models.JSONField(default=list)
    provider_key = models.CharField(max_length=80, blank=True, editable=False)
    recognised_until = models.DateTimeField(null=True, editable=False)
    offers = models.PositiveIntegerField(default=0, editable=False)
    sealed = models.TextField(blank=True, editable=False)
    past = models.JSONField(default=list, help_text="Task ids of earlier generations.")
    audit = models.JSONField(default=list, help_text="What operators decided.")
    begun_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField(db_index=True)

    objects = LogicalEmailQuerySet.as_manager()

    class Meta:
        verbose_name = "logical email"
        permissions = [("decide_logicalemail", "Can decide about logical emails")]
        constraints = [
            models.UniqueConstraint(fields=["key"], name="celery_idempotent_one_key"),
            models.CheckConstraint(condition=_known("status", Status), name="celery_idempotent_email_status"),
            models.CheckConstraint(
                condition=~Q(status__in=sorted(s.value for s in IN_FLIGHT)) | Q(deadline__isnull=False),
                name="celery_idempotent_in_flight_has_deadline",
            ),
        ]
        indexes = [
            models.Index(fields=["status", "deadline"], name="celery_idempotent_due"),
            models.Index(fields=["owner"], name="celery_idempotent_owner"),
            models.Index(fields=["email_type", "-created_at"], name="celery_idempotent_type"),
        ]

    def __str__(self) -> str:
        return f"{self.email_type} {self.label}".strip()


class Delivery(models.Model):
    """One recipient of one message of a logical email, within a generation."""

    email = models.ForeignKey(LogicalEmail, models.CASCADE, related_name="deliveries", db_index=False)
    generation = models.PositiveIntegerField()
    part = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, help_text="HMAC of the normalised address.")
    recipient = models.CharField(max_length=320, blank=True)
    status = models.CharField(max_length=16, choices=_choices(DeliveryStatus))
    message_id = models.CharField(max_length=255, blank=True)
    code = models.IntegerField(null=True, help_text="Reply code of the mail server.")
    detail = models.CharField(max_length=200, blank=True)
    events = models.JSONField(default=list, help_text="What the provider told later, and when.")
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(
                fields=["email", "generation", "part", "digest"], name="celery_idempotent_one_delivery"
            ),
            models.CheckConstraint(
                condition=_known("status", DeliveryStatus), name="celery_idempotent_delivery_status"
            ),
        ]
        indexes = [models.Index(fields=["digest"], name="celery_idempotent_digest")]

    def __str__(self) -> str:
        return f"{self.recipient or self.digest[:12]}: {self.get_status_display()}"


class SendAttempt(models.Model):
    """One hand-over to a mail server: written before it, finished after it."""

    email = models.ForeignKey(LogicalEmail, models.CASCADE, related_name="send_attempts", db_index=False)
    generation = models.PositiveIntegerField()
    number = models.PositiveIntegerField()
    part = models.CharField(max_length=100, blank=True)
    task_id = models.CharField(max_length=255)
    worker = models.CharField(max_length=255, blank=True)
    message_id = models.CharField(max_length=255, blank=True)
    recipients = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=16, choices=_choices(DeliveryStatus))
    code = models.IntegerField(null=True)
    detail = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["email", "generation", "number"], name="celery_idempotent_one_attempt"
            ),
            models.CheckConstraint(
                condition=_known("outcome", DeliveryStatus), name="celery_idempotent_attempt_outcome"
            ),
        ]
        indexes = [
            models.Index(fields=["task_id"], name="celery_idempotent_attempt_task"),
            models.Index(fields=["message_id"], name="celery_idempotent_message_id"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.generation}.{self.number}: {self.get_outcome_display()}"


class OutboxMessage(models.Model):
    """A message that is owed to the broker, until the ledger knows its end. Written with the caller's data."""

    task_id = models.CharField(max_length=255, editable=False)
    task = models.CharField(max_length=255)
    key = models.CharField(max_length=80, editable=False)
    label = models.CharField(max_length=255, blank=True, help_text="The key fields, addresses masked.")
    fingerprint = models.CharField(max_length=64, blank=True)
    payload = models.TextField(editable=False, help_text="Arguments and options, as Celery serialises them.")
    encrypted = models.BooleanField(default=False)
    eta = models.DateTimeField(null=True)
    tries = models.PositiveIntegerField(default=0, help_text="How often it was published.")
    error = models.CharField(max_length=200, blank=True, help_text="Why it could not be published.")
    created_at = models.DateTimeField()
    published_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(help_text="When the relay looks at it next.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["task_id"], name="celery_idempotent_outbox_task")]
        indexes = [models.Index(fields=["due_at", "task"], name="celery_idempotent_outbox_due")]

    def __str__(self) -> str:
        return f"{self.task} {self.label}".strip()
