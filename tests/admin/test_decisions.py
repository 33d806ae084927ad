"""Decisions from the admin: who may make them, how, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from celery_idempotent.ledger.policy import Policy
from celery_idempotent.models import LogicalEmail
from celery_idempotent.stores import factory
from tests.admin.pages import CLAIMANT, LIST, decision_on, form, page_of, told


def staff(client: Any, *permissions: str) -> Any:
    """Log a member of staff in who has these permissions alone."""
    user = User.objects.create_user("bob", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


def test_a_decision_is_carried_out_and_shown(admin_client: Any, doubtful: LogicalEmail) -> None:
    """The page offers what fits; afterwards it shows who, why and what, and Django's own log has it too."""
    page = admin_client.get(page_of(doubtful)).content.decode()
    assert 'value="resolve_sent"' in page
    assert 'value="reopen"' not in page
    answer = admin_client.post(decision_on(doubtful), form(doubtful), follow=True)
    assert "resolved as sent" in told(answer)
    page = answer.content.decode()
    for text in ("seen in the log", "resolved as sent", ">admin<"):
        assert text in page
    doubtful.refresh_from_db()
    assert doubtful.audit[0]["actor"] == "admin"
    assert "seen in the log" in LogEntry.objects.get().change_message


def test_a_get_decides_nothing(admin_client: Any, doubtful: LogicalEmail) -> None:
    """A link in a mail or a browser that reads ahead changes nothing."""
    assert admin_client.get(decision_on(doubtful), form(doubtful)).status_code == 405
    doubtful.refresh_from_db()
    assert (doubtful.status, doubtful.audit) == ("in_doubt", [])


def test_a_forged_post_decides_nothing(doubtful: LogicalEmail, admin_user: Any) -> None:
    """Without the page's token it is refused."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(decision_on(doubtful), form(doubtful)).status_code == 403
    doubtful.refresh_from_db()
    assert doubtful.status == "in_doubt"


@pytest.mark.parametrize("permissions", [(), ("view_logicalemail",), ("decide_logicalemail",)])
def test_who_may_not_decide(client: Any, doubtful: LogicalEmail, permissions: tuple[str, ...]) -> None:
    """It takes the permission to look and the one to decide; who only looks is offered nothing."""
    staff(client, *permissions)
    assert client.post(decision_on(doubtful), form(doubtful)).status_code == 403
    if permissions == ("view_logicalemail",):
        page = client.get(page_of(doubtful))
        assert page.status_code == 200
        assert "resolve_sent" not in page.content.decode()
        assert "resolve_sent" not in client.get(LIST).content.decode()
        bulk = {"action": "resolve_sent", "_selected_action": [doubtful.pk], "reason": "x"}
        client.post(LIST, bulk)
    doubtful.refresh_from_db()
    assert (doubtful.status, doubtful.audit) == ("in_doubt", [])


def test_who_may_decide(client: Any, doubtful: LogicalEmail) -> None:
    """Two permissions are enough."""
    staff(client, "view_logicalemail", "decide_logicalemail")
    answer = client.post(decision_on(doubtful), form(doubtful, decision="resolve_not_sent"), follow=True)
    assert "resolved as not sent" in told(answer)
    doubtful.refresh_from_db()
    assert (doubtful.status, doubtful.audit[0]["actor"]) == ("released", "bob")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"reason": "  "}, "reason is empty"),
        ({"decision": "reopen"}, "is not finished. Nothing is sent until somebody decides"),
        ({"version": 1}, "has changed since it was looked at"),
    ],
)
def test_what_is_refused_is_explained(
    admin_client: Any, doubtful: LogicalEmail, changes: dict[str, Any], text: str
) -> None:
    """No reason, not fitting, or a page that is out of date: a message, and nothing happens."""
    answer = admin_client.post(decision_on(doubtful), form(doubtful, **changes), follow=True)
    assert text in told(answer)
    doubtful.refresh_from_db()
    assert (doubtful.status, doubtful.audit) == ("in_doubt", [])


@pytest.mark.parametrize("changes", [{"decision": "drop"}, {"version": "x"}, {"decision": ""}])
def test_a_request_that_no_page_makes(
    admin_client: Any, doubtful: LogicalEmail, changes: dict[str, Any]
) -> None:
    """Refused."""
    assert admin_client.post(decision_on(doubtful), form(doubtful, **changes)).status_code == 403


def test_several_at_once(admin_client: Any, doubtful: LogicalEmail) -> None:
    """From the list, with one reason; those that it does not fit are named."""
    other = replace(CLAIMANT, key="1:" + "cd" * 32, task_id="task-2")
    factory.get_ledger().claim(other, Policy())
    chosen = list(LogicalEmail.objects.values_list("pk", flat=True))
    bulk = {"action": "resolve_sent", "_selected_action": chosen, "reason": "provider's report"}
    answer = admin_client.post(LIST, bulk, follow=True)
    assert "It was sent: 1" in told(answer)
    assert "at work right now" in told(answer)
    doubtful.refresh_from_db()
    assert doubtful.audit[0]["reason"] == "provider's report"
    answer = admin_client.post(LIST, {**bulk, "action": "reopen", "reason": ""}, follow=True)
    assert "reason is empty" in told(answer)
