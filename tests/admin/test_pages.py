"""The admin shows everything and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.urls import reverse

from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import Recipient
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.ledger.outcomes import Reply
from celery_idempotent.ledger.policy import Policy, Verdict
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage, SendAttempt
from celery_idempotent.stores import factory
from celery_idempotent.testing import hold
from tests.admin.pages import CLAIMANT, LIST, decision_on, form, page_of, told

MODELS = [LogicalEmail, Delivery, SendAttempt, OutboxMessage]


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


@pytest.mark.parametrize("unfinished", [True, False])
def test_what_is_sent_and_not_finished_says_so(
    admin_client: Any, email: LogicalEmail, unfinished: bool
) -> None:
    """Nobody takes it for done by mistake."""
    store = factory.get_ledger().store
    entry = store.get(email.key).entry  # type: ignore[union-attr]
    store.swap(replace(entry, status=Status.SENT, deadline=None, unfinished=unfinished), entry.version)
    page = admin_client.get(page_of(email)).content.decode()
    assert ("Sent, but its task was cut off" in page) is unfinished
    assert ("Calls are answered with this result" in page) is not unfinished


def test_what_was_cut_off_can_be_filtered(admin_client: Any, email: LogicalEmail) -> None:
    """And nothing else is in that list: neither what is at work, nor what is sent to its end."""
    store = factory.get_ledger().store
    ledger = Ledger(store)
    for name in ("done", "cut-off"):
        claimant = replace(CLAIMANT, key=name, task_id=name)
        target = ("0", Recipient("c" * 64, "c***@example.com"))
        entry = hold(ledger, ledger.claim(claimant, Policy()).entry, claimant, Policy()).begin(
            [target], "<c@shop>"
        )
        how = DeliveryStatus.ACCEPTED if name == "done" else DeliveryStatus.IN_DOUBT
        entry = hold(ledger, entry, claimant, Policy()).settle({target: Reply(how)}, "<c@shop>")
        if name == "done":
            hold(ledger, entry).complete(None)
        else:
            Operator(ledger, "ann", "it is there").resolve(entry, Verdict.SENT)
    page = admin_client.get(LIST, {"body": "unfinished"})
    assert [row.key for row in page.context["cl"].result_list] == ["cut-off"]
    assert len(admin_client.get(LIST).context["cl"].result_list) == 3


def test_what_is_running_is_offered_nothing(admin_client: Any, email: LogicalEmail) -> None:
    """A claim within its lease."""
    page = admin_client.get(page_of(email)).content.decode()
    assert "nothing can be decided" in page
    assert 'name="decision"' not in page


def test_the_page_and_the_command_say_the_same_of_an_email_that_waits(
    admin_client: Any, email: LogicalEmail
) -> None:
    """Neither says that nobody is at work while its own retry is to come; both say until when."""
    store = factory.get_ledger().store
    entry = store.get(email.key).entry  # type: ignore[union-attr]
    entry = hold(Ledger(store), entry).release(retry_in=900)
    page = unescape(admin_client.get(page_of(email)).content.decode())
    shown = StringIO()
    call_command("idempotency", "show", email.key, stdout=shown)
    for said in (page, shown.getvalue()):
        assert f"It waits for its own retry, by task {entry.owner}, until " in said
        assert "by the ledger's clock. If that does not come, the next call sends it." in said
        assert "Nobody is at work" not in said


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
