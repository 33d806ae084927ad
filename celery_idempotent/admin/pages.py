"""The admin's pages: they show emails, recipients, hand-overs and the outbox, and change none of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.text import Truncator

from ..models import Delivery, LogicalEmail, OutboxMessage, SendAttempt
from ..models.queries import LogicalEmailQuerySet
from .decisions import DecidingAdmin, exact

_IN_A_LIST = 40
"""Characters of a label in a list. A key field may be a digest, which no browser breaks."""


def _exactly(name: str) -> Callable[[object, object], str]:
    """Return a column that shows the time ``name`` to the millisecond. Django's own format hides the order."""

    @admin.display(description=name.replace("_", " "), ordering=name)
    def shown(_: object, obj: object) -> str:
        return exact(getattr(obj, name))

    return shown


@admin.display(description="webhook events")
def _webhook_events(_: object, delivery: Delivery) -> str:
    """Return the events of the provider's webhooks, a line each: kind and time."""
    return "\n".join(f"{kind} {exact(datetime.fromisoformat(at))}" for kind, at in delivery.events) or "-"


def _shortened(text: str) -> str:
    """Return ``text`` for a list, so short that the status beside it stays in sight."""
    return Truncator(text).chars(_IN_A_LIST) or "-"


@admin.display(description="email", ordering="email")
def _whose(_: object, row: Delivery | SendAttempt) -> str:
    """Return the label of the email that ``row`` belongs to."""
    return _shortened(str(row.email))


class _ReadOnly:
    """No adding, changing or deleting: the ledger is evidence."""

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Entries are made by tasks."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """A change by hand would break the fencing."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Deleting an entry would reopen its key."""
        return False


class _BodyFilter(admin.SimpleListFilter):
    """Filter for sent emails with an unfinished body. It probes the same index as the command."""

    title = "body"
    parameter_name = "body"

    def lookups(self, request: HttpRequest, model_admin: object) -> list[tuple[str, str]]:
        """Return the filter's one choice."""
        return [("unfinished", "cut off, not finished")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[LogicalEmail]) -> QuerySet[LogicalEmail]:
        """Narrow the list."""
        if self.value() == "unfinished" and isinstance(queryset, LogicalEmailQuerySet):
            return queryset.unfinished()
        return queryset


class _DeliveryInline(_ReadOnly, admin.TabularInline):  # type: ignore[misc, type-arg]
    """The recipients of an email."""

    model = Delivery
    fields = readonly_fields = (
        "generation", "part", "status", "code", "detail", "webhook_events", "message_id", "updated",
    )  # fmt: skip
    webhook_events, updated = _webhook_events, _exactly("updated_at")
    extra = 0


class _SendAttemptInline(_ReadOnly, admin.TabularInline):  # type: ignore[misc, type-arg]
    """The hand-overs of an email."""

    model = SendAttempt
    fields = readonly_fields = (
        "code", "detail", "recipients", "task_id", "worker", "started", "ended",
    )  # fmt: skip
    started, ended = _exactly("started_at"), _exactly("ended_at")
    extra = 0
    ordering = ("generation", "number")


@admin.register(LogicalEmail)
class LogicalEmailAdmin(_ReadOnly, DecidingAdmin):  # type: ignore[misc]
    """One page an email: what was intended, every attempt, every recipient."""

    list_display = (
        "what", "email_type", "status", "attempts", "arrivals", "generation", "created", "sent",
    )  # fmt: skip
    fieldsets = (
        (None, {"fields": (("email_type", "status", "error"), "label", "key", "owner", "result")}),
        ("Times", {"fields": (("created", "begun"), ("sent", "updated"), "deadline_at")}),
        (
            "Counts and tokens",
            {
                "classes": ["collapse"],
                "fields": (("arrivals", "attempts", "generation", "version"), "fingerprint", "participants"),
            },
        ),
    )
    created, begun, sent = _exactly("created_at"), _exactly("begun_at"), _exactly("sent_at")
    updated, deadline_at = _exactly("updated_at"), _exactly("deadline")
    readonly_fields = ("key", "created", "begun", "sent", "updated", "deadline_at")
    list_filter = ("status", _BodyFilter, "email_type", "created_at")
    search_fields = ("key", "label", "owner", "deliveries__recipient", "send_attempts__message_id")
    search_help_text = "Key, key field, task id, masked recipient or Message-ID"
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    inlines = (_DeliveryInline, _SendAttemptInline)
    show_full_result_count = False

    @admin.display(description="label", ordering="label")
    def what(self, email: LogicalEmail) -> str:
        """Return the label."""
        return _shortened(email.label)


@admin.register(Delivery)
class _DeliveryAdmin(_ReadOnly, admin.ModelAdmin):  # type: ignore[misc, type-arg]
    """Recipients across emails."""

    list_display = ("recipient", "status", "code", "whose", "updated", "detail", "generation")
    whose = _whose
    webhook_events, updated = _webhook_events, _exactly("updated_at")
    exclude = ("events",)
    readonly_fields = ("webhook_events",)
    list_filter = ("status",)
    search_fields = ("recipient", "digest", "message_id", "email__key")
    list_select_related = ("email",)
    ordering = ("-updated_at",)
    show_full_result_count = False


@admin.register(SendAttempt)
class _SendAttemptAdmin(_ReadOnly, admin.ModelAdmin):  # type: ignore[misc, type-arg]
    """Hand-overs across emails."""

    list_display = (
        "whose", "outcome", "code", "recipients", "started", "ended", "generation", "number", "task_id",
        "worker",
    )  # fmt: skip
    whose = _whose
    started, ended = _exactly("started_at"), _exactly("ended_at")
    list_filter = ("outcome", "started_at")
    search_fields = ("task_id", "message_id", "email__key", "email__label")
    list_select_related = ("email",)
    ordering = ("-started_at",)
    show_full_result_count = False


@admin.register(OutboxMessage)
class _OutboxMessageAdmin(_ReadOnly, admin.ModelAdmin):  # type: ignore[misc, type-arg]
    """Messages of the outbox, without their arguments."""

    list_display = ("label", "task", "error", "due", "tries", "published", "created")
    fields = ("task", "label", "key", "task_id", "tries", "error", "created", "published", "due")
    readonly_fields = ("key", "task_id", "created", "published", "due")
    created, published, due = _exactly("created_at"), _exactly("published_at"), _exactly("due_at")
    list_filter = ("task",)
    search_fields = ("key", "label", "task_id")
    ordering = ("due_at",)
    show_full_result_count = False
