"""Decisions in the admin: each is a POST request with a permission and a reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST

from ..conf import conf
from ..exceptions import IdempotencyError
from ..ledger.decisions import LONGEST_REASON
from ..ledger.entry import Entry
from ..ledger.situations import LABELS, find_situation
from ..ledger.status import DeliveryStatus, Status
from ..models import LogicalEmail, SendAttempt
from ..operations import decisions
from ..stores.factory import get_ledger

_PERMISSION = "celery_idempotent.decide_logicalemail"
_TOLD = 5
"""Refusals of a bulk action that are shown one by one."""


class _DecisionForm(ActionForm):
    """The list's action form, with a reason."""

    reason = forms.CharField(
        max_length=LONGEST_REASON,
        required=False,
        label="",
        widget=forms.TextInput({"placeholder": "Reason", "aria-label": "Reason", "style": "margin-left: 8px"}),
    )


def exact(moment: datetime | None) -> str:
    """Return ``moment`` to the millisecond, with its offset, to be compared with any log."""
    if moment is None:
        return "-"
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return str(local.isoformat(sep=" ", timespec="milliseconds"))


def _words(status: Status) -> str:
    return status.value.replace("_", " ")


def _traces(row: LogicalEmail, entry: Entry) -> list[SendAttempt]:
    """Return the hand-overs without a known end; the mail server's log is searched for their Message-IDs."""
    if entry.status not in (Status.IN_DOUBT, Status.SENDING):
        return []
    open_ended = [status.value for status in (DeliveryStatus.IN_DOUBT, DeliveryStatus.SENDING)]
    found = row.send_attempts.filter(generation=entry.generation, outcome__in=open_ended).exclude(message_id="")
    return list(found.order_by("number"))


def _logged(decision: str, entry: Entry) -> str:
    """Return the line for Django's own log: the decision, and the reason with its addresses masked."""
    return f"{LABELS[decision]}: {entry.audit[-1].reason}"


def _bulk(decision: str) -> Callable[[DecidingAdmin, HttpRequest, QuerySet[LogicalEmail]], None]:
    """Return the list's action that carries out ``decision`` about each of the chosen emails."""

    @admin.action(description=LABELS[decision], permissions=["decide"])
    def action(self: DecidingAdmin, request: HttpRequest, rows: QuerySet[LogicalEmail]) -> None:
        reason = request.POST.get("reason", "")
        done, refused = 0, []
        for row in rows:
            try:
                entry = decisions.decide(decision, row.key, request.user.get_username(), reason, row.version)
                self.log_change(request, row, _logged(decision, entry))
                done += 1
            except IdempotencyError as error:
                refused.append(str(error))
        if done:
            messages.success(request, f"{LABELS[decision]}: {done}")
        for text in refused[:_TOLD]:
            messages.error(request, text)
        if len(refused) > _TOLD:
            messages.error(request, f"and {len(refused) - _TOLD} more were refused")

    action.__name__ = decision
    return action


class DecidingAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic at run time
    """Decisions in the admin of emails: the form on an email's page, and the list's actions."""

    change_form_template = "admin/celery_idempotent/logicalemail/change_form.html"
    action_form = _DecisionForm
    actions = [_bulk(decision) for decision in LABELS]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user may decide; Django's "view" permission covers looking alone."""
        return bool(request.user.has_perm(_PERMISSION))

    def get_urls(self) -> list[URLPattern]:
        """Add the address that decisions are posted to."""
        view = self.admin_site.admin_view(self.decide)
        # The ledger commits on its own; inside a request's transaction, SQLite would refuse it.
        view._non_atomic_requests = {conf.database, "default"}  # type: ignore[attr-defined]
        name = "celery_idempotent_logicalemail_decide"
        return [path("<int:pk>/decide/", view, name=name), *super().get_urls()]

    @method_decorator(require_POST)
    def decide(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Carry out one decision about the email that the page showed."""
        row = self.get_object(request, str(pk))
        decision, version = request.POST.get("decision", ""), request.POST.get("version", "")
        allowed = self.has_decide_permission(request) and self.has_view_permission(request, row)
        if not allowed or row is None or decision not in LABELS or not version.isdigit():
            raise PermissionDenied
        reason = request.POST.get("reason", "")
        try:
            entry = decisions.decide(decision, row.key, request.user.get_username(), reason, int(version))
        except IdempotencyError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, f"{entry.audit[-1].action}: it is {_words(entry.status)} now")
            self.log_change(request, row, _logged(decision, entry))
        return HttpResponseRedirect(reverse("admin:celery_idempotent_logicalemail_change", args=[pk]))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Add the ledger's own view of the email, and the decisions that are possible."""
        if (row := kwargs.get("obj")) is not None:
            context["panel"] = self._panel(request, row)
        return super().render_change_form(request, context, *args, **kwargs)

    def _panel(self, request: HttpRequest, row: LogicalEmail) -> dict[str, object]:
        try:
            stored = get_ledger().store.get(row.key)
        except IdempotencyError as error:
            return {"status": "The ledger does not answer", "hint": str(error)}
        if stored is None:
            return {"status": "No longer in the ledger", "hint": "The next call of the task sends it anew."}
        entry = stored.entry
        found = find_situation(entry, stored.now, exact)
        may = self.has_decide_permission(request)
        return {
            "status": _words(entry.status).capitalize(),
            "hint": found.advice,
            "traces": [(one.message_id, exact(one.started_at), one.worker) for one in _traces(row, entry)],
            "behind": entry.version != row.version,
            "version": entry.version,
            "audit": [(exact(one.at), _words(one.found), one) for one in entry.audit],
            "decisions": [(name, LABELS[name]) for name in found.decisions] if may else [],
            "forbidden": bool(found.decisions) and not may,
            "url": reverse("admin:celery_idempotent_logicalemail_decide", args=[row.pk]),
        }
