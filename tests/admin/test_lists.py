"""What an operator sees at night: what to look for is beside the decision, and nothing pushes it away."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from celery_idempotent.ledger.entry import Entry, Recipient
from celery_idempotent.ledger.outcomes import Reply
from celery_idempotent.ledger.policy import Claimant, Policy
from celery_idempotent.ledger.status import DeliveryStatus, Status
from celery_idempotent.models import LogicalEmail
from celery_idempotent.stores import factory
from celery_idempotent.testing import hold

CLAIMANT = Claimant("1:" + "cd" * 32, "invoice", "task-1", "worker@host", "invoice=" + "7" * 70)
TARGET = ("0", Recipient("a" * 64, "a***@example.com"))


@pytest.fixture
def doubtful(db: None, settings: Any) -> Entry:
    """An email whose reply was lost."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "database"}
    return in_doubt(Policy(send_timeout=0.0))


def in_doubt(policy: Policy) -> Entry:
    ledger = factory.get_ledger()
    entry = hold(ledger, ledger.claim(CLAIMANT, policy).entry, CLAIMANT, policy).begin([TARGET], "<m@shop>")
    lost = {TARGET: Reply(DeliveryStatus.IN_DOUBT, None, "connection lost")}
    return hold(ledger, entry, CLAIMANT, policy).settle(lost, "<m@shop>")


def page(client: Any) -> str:
    url = reverse("admin:celery_idempotent_logicalemail_change", args=[LogicalEmail.objects.get().pk])
    return str(client.get(url).content.decode())


def test_a_doubt_shows_what_to_look_for_beside_the_buttons(admin_client: Any, doubtful: Entry) -> None:
    """Message-ID, time and worker of the hand-over: what a mail server's log is searched for."""
    box = page(admin_client).partition('class="decide"')[2].partition("</form>")[0]
    assert "&lt;m@shop&gt;" in box
    assert "by worker@host" in box
    assert "+00:00" in box
    assert 'value="resolve_not_sent"' in box


def test_a_doubt_whose_deadline_is_running_is_not_said_to_be_unsent(
    admin_client: Any, db: None, settings: Any
) -> None:
    """The mail server may be at it; that it has the mail can be said."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "database"}
    in_doubt(Policy())
    box = page(admin_client).partition('class="decide"')[2].partition("</form>")[0]
    assert 'value="resolve_sent"' in box
    assert 'value="resolve_not_sent"' not in box


def test_a_doubt_of_an_opaque_body_names_no_message_id(admin_client: Any, db: None, settings: Any) -> None:
    """The ledger has seen none."""
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "database"}
    store = factory.get_ledger().store
    entry = factory.get_ledger().claim(CLAIMANT, Policy(opaque=True)).entry
    store.swap(replace(entry, status=Status.IN_DOUBT, deadline=None), entry.version)
    text = page(admin_client)
    assert "Nobody knows what its body has done before it was cut off" in text
    assert "Look for the Message-ID" not in text


def test_who_may_not_decide_is_told_which_permission_it_takes(client: Any, doubtful: Entry) -> None:
    """In place of the buttons."""
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_logicalemail"))
    client.force_login(viewer)
    text = page(client)
    assert "Can decide about logical emails" in text
    assert "<button" not in text.partition('class="decide"')[2].partition("</div>")[0]


def test_what_webhooks_told_is_beside_the_delivery(admin_client: Any, doubtful: Entry) -> None:
    """A bounce answers the question before it is asked."""
    (delivery,) = doubtful.deliveries
    told = replace(delivery, events=(("bounced", datetime(2026, 5, 1, 12, 30, tzinfo=timezone.utc)),))
    factory.get_ledger().store.swap(replace(doubtful, deliveries=(told,)), doubtful.version, None, (told,))
    assert "bounced 2026-05-01 12:30:00.000+00:00" in page(admin_client)


def test_a_long_label_leaves_the_status_in_sight(admin_client: Any, doubtful: Entry) -> None:
    """A key field may be a digest, which no browser breaks; the email's own page has it whole."""
    listed = admin_client.get(reverse("admin:celery_idempotent_logicalemail_changelist")).content.decode()
    assert f"{CLAIMANT.label}</a>" not in listed
    assert "invoice=7777777777777777777777777777777…</a>" in listed
    assert CLAIMANT.label in page(admin_client)
