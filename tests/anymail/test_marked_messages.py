"""What a provider is given: the mark that webhooks bring back, and everything that the project asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from anymail.exceptions import AnymailRecipientsRefused, AnymailUnsupportedFeature
from django.core import mail
from django.core.mail import EmailMultiAlternatives

from celery_idempotent import IdempotentEmailTask
from celery_idempotent.contrib.anymail.message_marks import Mark
from celery_idempotent.exceptions import RecipientsRefused
from tests.anymail.outbox import answer, offered, params
from tests.anymail.receipts import ANN, BOB, app, entry, send

pytestmark = pytest.mark.usefixtures("outbox")


def test_the_mark_names_the_hand_over_and_is_new_each_time() -> None:
    """A webhook tells which of two requests it is about: key, generation, attempt and message are signed."""
    send(anymail_test_response=answer(ann="failed"))
    send()
    found = [Mark.read(params(place)["metadata"]) for place in (0, 1)]
    assert [(mark.key, mark.generation, mark.attempt, mark.whole) for mark in found if mark] == [
        (entry().key, 1, 1, True),
        (entry().key, 1, 2, True),
    ]
    assert len({mark.message for mark in found if mark}) == 1


@pytest.mark.parametrize("batch", ["merge_data", "merge_metadata", "merge_headers"])
def test_a_batch_is_marked_as_one(batch: str) -> None:
    """A message for each recipient: an event about one proves nothing about the others."""
    assert send(ANN, BOB, **{batch: {}}).get() == "sent"
    assert params()["is_batch_send"]
    mark = Mark.read(params()["metadata"])
    assert mark is not None
    assert not mark.whole


def test_the_mark_and_the_projects_own_metadata() -> None:
    """Both go out, and the message that the project keeps is as it was."""
    send(metadata={"order": 7})
    metadata = params()["metadata"]
    assert metadata["order"] == 7
    assert metadata["idem_key"] == entry().key
    assert all(len(name) <= 20 and len(value) <= 80 for name, value in metadata.items() if name != "order")
    assert ANN not in str(metadata)
    assert mail.outbox[0].metadata == {"order": 7}


def test_a_provider_without_metadata_still_sends(monkeypatch: Any) -> None:
    """Postal has none: webhooks cannot tell about its messages, and they go out."""

    def none(self: Any, metadata: Any) -> None:
        self.unsupported_feature("metadata")

    monkeypatch.setattr("anymail.backends.test.TestPayload.set_metadata", none)
    assert send().get() == "sent"
    own = send(order=2, metadata={"order": 7}).result
    assert isinstance(own, AnymailUnsupportedFeature), "the project's own metadata is not dropped silently"


def test_message_id_and_date_stay_the_same() -> None:
    """Of one email: what is offered again can be recognised."""
    send(anymail_test_response=answer(ann="failed"))
    send()
    first, second = (params(place)["extra_headers"] for place in (0, 1))
    assert first["Message-ID"] == second["Message-ID"] == entry().deliveries[0].message_id
    assert first["Date"] == second["Date"]


def test_everything_that_the_project_asked_for_goes_along() -> None:
    """Tags, tracking, templates and the provider's own options; and the message is as it was afterwards."""
    asked = {
        "tags": ["orders"],
        "track_opens": True,
        "template_id": "welcome",
        "merge_global_data": {"name": "Ann"},
        "esp_extra": {"ip_pool": "slow"},
        "envelope_sender": "bounces@example.com",
        "metadata": {"order": 7},
        "extra_headers": {"X-Shop": "1"},
    }
    assert send(**asked).get() == "sent"
    got = params()
    for name in ("tags", "track_opens", "template_id", "merge_global_data"):
        assert got[name] == asked[name]
    assert (got["ip_pool"], got["envelope_sender"]) == ("slow", "bounces@example.com")
    assert got["metadata"]["order"] == 7
    assert got["extra_headers"]["X-Shop"] == "1"
    assert mail.outbox[0].metadata == {"order": 7}
    assert mail.outbox[0].extra_headers == {"X-Shop": "1"}


def test_outside_a_task_it_passes_as_it_is() -> None:
    """No mark, no stamp, no entry: such mail is none of the ledger's business, and errors are Anymail's own."""
    assert EmailMultiAlternatives("Hi", "text", to=[ANN]).send() == 1
    assert "metadata" not in params()
    assert "Message-ID" not in params().get("extra_headers", {})
    for silently in (False, True):
        message = EmailMultiAlternatives("Hi", "text", to=[ANN])
        message.anymail_test_response = answer(ann="rejected")  # type: ignore[attr-defined]
        if silently:
            assert message.send(fail_silently=True) == 0
        else:
            with pytest.raises(AnymailRecipientsRefused):
                message.send()


@app.task(base=IdempotentEmailTask, key_fields=("order",), email_type="anymail-templates")
def templates(order: int, attribute: str) -> str:
    """Two messages whose subject and text are the provider's, and that differ in one attribute alone."""
    mixed, all_well = answer(ann="sent", bob="invalid"), answer(ann="sent", bob="sent")
    for value, said in (("first", mixed), ("second", all_well)):
        message = EmailMultiAlternatives(to=[ANN, BOB])
        more = value if attribute == "template_id" else {ANN: {"X-Word": value}}
        for name, given in (("template_id", "a"), (attribute, more), ("anymail_test_response", said)):
            setattr(message, name, given)
        with suppress(RecipientsRefused):
            message.send()
    return "sent"


@pytest.mark.parametrize("attribute", ["template_id", "merge_global_data", "merge_data"])
def test_messages_that_differ_in_their_template_are_two(attribute: str) -> None:
    """P2: the second one is not taken for the first, which not everybody got."""
    assert templates.apply((1, attribute)).result == "sent"
    assert offered() == [[ANN, BOB]] * 2
