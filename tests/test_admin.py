"""The admin shows everything and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from celery_idempotent import wiring
from celery_idempotent.admin_decisions import ADVICE, UNFINISHED
from celery_idempotent.core.entry import Recipient
from celery_idempotent.core.interventions import Operator
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Asker, Policy, Reply, Verdict
from celery_idempotent.core.status import DeliveryStatus, Status
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage, SendAttempt
from celery_idempotent.stores import outbox
from celery_idempotent.stores.database import DatabaseStore

ASKER = Asker("1:" + "ab" * 32, "order-confirmation", "task-1", "worker@host", "order_id=7")
MODELS = [LogicalEmail, Delivery, SendAttempt, OutboxMessage]
LIST = "/admin/celery_idempotent/logicalemail/"


@pytest.fixture
def email(db: None, settings: Any) -> LogicalEmail:
    """An email with one attempt and two recipients."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "database"}
    ledger = Ledger(DatabaseStore())
    targets = [("0", Recipient(c * 64, f"{c}***@example.com")) for c in "ab"]
    entry = ledger.claim(ASKER, Policy()).entry
    entry = ledger.begin(entry, targets, "<m@shop>", ASKER, Policy())
    replies = {
        targets[0]: Reply(DeliveryStatus.ACCEPTED, 250, "queued"),
        targets[1]: Reply(DeliveryStatus.DEFERRED, 450, "greylisted"),
    }
    ledger.settle(entry, replies, "<m@shop>", ASKER, Policy())
    email = LogicalEmail.objects.get()
    owed = OutboxMessage(task_id="task-1", task="t", key=email.key, label=email.label, payload="a secret")
    outbox.add("default", [owed])
    return email


@pytest.mark.parametrize("model", MODELS)
def test_lists_can_be_searched_and_filtered(admin_client: Any, email: LogicalEmail, model: Any) -> None:
    """Every model has a list, and what operators know (key, task id, Message-ID, mask) finds the email."""
    url = reverse(f"admin:celery_idempotent_{model._meta.model_name}_changelist")
    assert admin_client.get(url).status_code == 200
    found = admin_client.get(url, {"q": email.key})
    assert found.context["cl"].result_count >= 1
    assert admin_client.get(url, {"q": "nonsense"}).context["cl"].result_count == 0


def test_the_page_of_an_email_has_its_attempts_and_recipients(admin_client: Any, email: LogicalEmail) -> None:
    """One page answers the customer's question."""
    url = reverse("admin:celery_idempotent_logicalemail_change", args=[email.pk])
    page = admin_client.get(url).content.decode()
    people = ("a***@example.com", "b***@example.com")
    for text in ("order_id=7", *people, "greylisted", "task-1", "worker@host", email.key):
        assert text in page


@pytest.mark.parametrize("model", MODELS)
def test_nothing_can_be_changed(admin_client: Any, email: LogicalEmail, model: Any) -> None:
    """Not added, not changed, not deleted, not even by a superuser."""
    name = f"admin:celery_idempotent_{model._meta.model_name}"
    row = model.objects.first()
    assert admin_client.get(reverse(f"{name}_add")).status_code == 403
    assert admin_client.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert admin_client.post(reverse(f"{name}_change", args=[row.pk]), {"status": "sent"}).status_code == 403
    assert "_save" not in admin_client.get(reverse(f"{name}_change", args=[row.pk])).content.decode()
    assert model.objects.count() >= 1


# -- decisions ---------------------------------------------------------------------------------------------


@pytest.fixture
def doubtful(email: LogicalEmail) -> LogicalEmail:
    """An email in doubt."""
    store = wiring.get_ledger().store
    entry = store.get(email.key).entry  # type: ignore[union-attr]
    store.swap(replace(entry, status=Status.IN_DOUBT, deadline=None), entry.version)
    email.refresh_from_db()
    return email


def page_of(email: LogicalEmail) -> str:
    return reverse("admin:celery_idempotent_logicalemail_change", args=[email.pk])


def decision_on(email: LogicalEmail) -> str:
    return reverse("admin:celery_idempotent_logicalemail_decide", args=[email.pk])


def form(email: LogicalEmail, **changes: Any) -> dict[str, Any]:
    return {"decision": "resolve_sent", "reason": "seen in the log", "version": email.version, **changes}


def told(response: Any) -> str:
    return " ".join(str(message) for message in response.context["messages"])


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


@pytest.mark.parametrize("unfinished", [True, False])
def test_what_is_sent_and_not_finished_says_so(
    admin_client: Any, email: LogicalEmail, unfinished: bool
) -> None:
    """Nobody takes it for done by mistake."""
    store = wiring.get_ledger().store
    entry = store.get(email.key).entry  # type: ignore[union-attr]
    store.swap(replace(entry, status=Status.SENT, deadline=None, unfinished=unfinished), entry.version)
    page = admin_client.get(page_of(email)).content.decode()
    assert (UNFINISHED in page) is unfinished
    assert (ADVICE[Status.SENT] in page) is not unfinished


def test_what_was_cut_off_can_be_filtered(admin_client: Any, email: LogicalEmail) -> None:
    """And nothing else is in that list: neither what is at work, nor what is sent to its end."""
    store = wiring.get_ledger().store
    ledger = Ledger(store)
    for name in ("done", "cut-off"):
        asker = replace(ASKER, key=name, task_id=name)
        target = ("0", Recipient("c" * 64, "c***@example.com"))
        entry = ledger.begin(ledger.claim(asker, Policy()).entry, [target], "<c@shop>", asker, Policy())
        how = DeliveryStatus.ACCEPTED if name == "done" else DeliveryStatus.IN_DOUBT
        entry = ledger.settle(entry, {target: Reply(how)}, "<c@shop>", asker, Policy())
        if name == "done":
            ledger.complete(entry, None)
        else:
            Operator(store, "ann", "it is there").resolve(entry, Verdict.SENT)
    page = admin_client.get(LIST, {"body": "unfinished"})
    assert [row.key for row in page.context["cl"].result_list] == ["cut-off"]
    assert len(admin_client.get(LIST).context["cl"].result_list) == 3


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
        ({"decision": "reopen"}, "Resolve it first"),
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


def test_what_is_running_is_offered_nothing(admin_client: Any, email: LogicalEmail) -> None:
    """A claim within its lease."""
    page = admin_client.get(page_of(email)).content.decode()
    assert "may be at it right now" in page
    assert 'name="decision"' not in page


def test_several_at_once(admin_client: Any, doubtful: LogicalEmail) -> None:
    """From the list, with one reason; those that it does not fit are named."""
    other = replace(ASKER, key="1:" + "cd" * 32, task_id="task-2")
    wiring.get_ledger().claim(other, Policy())
    chosen = list(LogicalEmail.objects.values_list("pk", flat=True))
    bulk = {"action": "resolve_sent", "_selected_action": chosen, "reason": "provider's report"}
    answer = admin_client.post(LIST, bulk, follow=True)
    assert "It was sent: 1" in told(answer)
    assert "at work right now" in told(answer)
    doubtful.refresh_from_db()
    assert doubtful.audit[0]["reason"] == "provider's report"
    answer = admin_client.post(LIST, {**bulk, "action": "reopen", "reason": ""}, follow=True)
    assert "reason is empty" in told(answer)


def test_a_ledger_that_does_not_answer(admin_client: Any, email: LogicalEmail, settings: Any) -> None:
    """The page is there all the same, from the tables."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "redis://127.0.0.1:1/0"}
    page = admin_client.get(page_of(email)).content.decode()
    assert "does not answer" in page
    assert "order_id=7" in page
    assert "does not answer" in told(admin_client.post(decision_on(email), form(email), follow=True))


def test_arguments_are_shown_to_nobody(admin_client: Any, email: LogicalEmail) -> None:
    """They can hold reset tokens."""
    row = OutboxMessage.objects.get()
    url = reverse("admin:celery_idempotent_outboxmessage_change", args=[row.pk])
    page = admin_client.get(url).content.decode()
    assert row.label in page
    assert "a secret" not in page
