"""The admin: everything can be looked at, and nothing changed but by a decision that is audited."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.text import Truncator

from ..models import Delivery, LogicalEmail, OutboxMessage, SendAttempt
from .decisions import Decides, exact

_IN_A_LIST = 40
"""Characters of a label in a list. A key field may be a digest, which no browser breaks."""


def exactly(name: str) -> Any:
    """Return a column for the time ``name`` to the millisecond: Django's own form hides what came first."""

    @admin.display(description=name.replace("_", " "), ordering=name)
    def shown(_: Any, obj: Any) -> str:
        return exact(getattr(obj, name))

    return shown


@admin.display(description="told later")
def told_later(_: Any, delivery: Any) -> str:
    """Return what the provider's webhooks told, a line each: the kind and the time."""
    return "\n".join(f"{kind} {exact(datetime.fromisoformat(at))}" for kind, at in delivery.events) or "-"


def shortened(text: str) -> str:
    """Return ``text`` for a list, so short that the status beside it stays in sight."""
    return Truncator(text).chars(_IN_A_LIST) or "-"


@admin.display(description="email", ordering="email")
def whose(_: Any, row: Delivery | SendAttempt) -> str:
    """Return which email ``row`` belongs to."""
    return shortened(str(row.email))


class ReadOnly:
    """No adding, changing or deleting: the ledger is evidence."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Entries are made by tasks."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A change by hand would break the fencing."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Deleting an entry would reopen its key."""
        return False


class BodyFilter(admin.SimpleListFilter):
    """Those whose body was cut off, by the probe of an index that the command makes as well."""

    title = "body"
    parameter_name = "body"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the few that are of interest."""
        return [("unfinished", "cut off, not finished")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Narrow the list."""
        return queryset.unfinished() if self.value() == "unfinished" else queryset


class DeliveryInline(ReadOnly, admin.TabularInline):  # type: ignore[misc, type-arg]
    """The recipients of an email."""

    model = Delivery
    fields = readonly_fields = (
        "generation", "part", "status", "code", "detail", "told_later", "message_id", "updated",
    )  # fmt: skip
    told_later, updated = told_later, exactly("updated_at")
    extra = 0


class SendAttemptInline(ReadOnly, admin.TabularInline):  # type: ignore[misc, type-arg]
    """The hand-overs of an email."""

    model = SendAttempt
    fields = readonly_fields = (
        "code", "detail", "recipients", "task_id", "worker", "started", "ended",
    )  # fmt: skip
    started, ended = exactly("started_at"), exactly("ended_at")
    extra = 0
    ordering = ("generation", "number")


@admin.register(LogicalEmail)
class LogicalEmailAdmin(Decides, ReadOnly, admin.ModelAdmin):  # type: ignore[misc, type-arg]
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
    created, begun, sent = exactly("created_at"), exactly("begun_at"), exactly("sent_at")
    updated, deadline_at = exactly("updated_at"), exactly("deadline")
    readonly_fields = ("key", "created", "begun", "sent", "updated", "deadline_at")
    list_filter = ("status", BodyFilter, "email_type", "created_at")
    search_fields = ("key", "label", "owner", "deliveries__recipient", "send_attempts__message_id")
    search_help_text = "Key, key field, task id, masked recipient or Message-ID"
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    inlines = (DeliveryInline, SendAttemptInline)
    show_full_result_count = False

    @admin.display(description="label", ordering="label")
    def what(self, email: LogicalEmail) -> str:
        """Return the label."""
        return shortened(email.label)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[misc, type-arg]
    """Recipients across emails."""

    list_display = ("recipient", "status", "code", "whose", "updated", "detail", "generation")
    whose = whose
    told_later, updated = told_later, exactly("updated_at")
    exclude = ("events",)
    readonly_fields = ("told_later",)
    list_filter = ("status",)
    search_fields = ("recipient", "digest", "message_id", "email__key")
    list_select_related = ("email",)
    ordering = ("-updated_at",)
    show_full_result_count = False


@admin.register(SendAttempt)
class SendAttemptAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[misc, type-arg]
    """Hand-overs across emails."""

    list_display = (
        "whose", "outcome", "code", "recipients", "started", "ended", "generation", "number", "task_id",
        "worker",
    )  # fmt: skip
    whose = whose
    started, ended = exactly("started_at"), exactly("ended_at")
    list_filter = ("outcome", "started_at")
    search_fields = ("task_id", "message_id", "email__key", "email__label")
    list_select_related = ("email",)
    ordering = ("-started_at",)
    show_full_result_count = False


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[misc, type-arg]
    """What is owed to the broker, without its arguments."""

    list_display = ("label", "task", "error", "due", "tries", "published", "created")
    fields = ("task", "label", "key", "task_id", "tries", "error", "created", "published", "due")
    readonly_fields = ("key", "task_id", "created", "published", "due")
    created, published, due = exactly("created_at"), exactly("published_at"), exactly("due_at")
    list_filter = ("task",)
    search_fields = ("key", "label", "task_id")
    ordering = ("due_at",)
    show_full_result_count = False
