"""GDPR: a recipient leaves the ledger and its mirror, and nothing is sent again for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from django.conf import settings as settings_of_django
from django.core.mail import EmailMessage
from django.db import connection

from celery_idempotent import IdempotentEmailTask, InterventionRefused, RecipientsRefused, Status
from celery_idempotent.email_types.email_type import email_type_of
from celery_idempotent.ledger.addresses import recipient
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.erasure import scrubbed
from celery_idempotent.ledger.outcomes import Acquired, Reply
from celery_idempotent.ledger.policy import Claimant, Verdict
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage
from celery_idempotent.operations.erasure import forget
from celery_idempotent.outbox import enqueue
from celery_idempotent.stores import factory
from celery_idempotent.testing import hold
from tests.support.mailserver import ScriptedSMTP

app = Celery("forgetting", broker="memory://", backend="cache+memory://", set_as_current=False)
ANN, BOB = "ann@example.com", "bob@example.com"
WHY = {"actor": "dpo", "reason": "asked to be forgotten", "app": app}


@app.task(bind=True, base=IdempotentEmailTask, key_fields=("n", "to"), name="forgettable")
def mail(self: Any, n: int, to: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    EmailMessage("Hi", "text", to=[to, *more]).send()
    return {"to": to, "n": n}


@pytest.fixture(params=["memory://", "database", "redis"])
def place(request: Any, keep_ledger_in: Callable[[str], None]) -> None:
    """An empty ledger of each kind."""
    keep_ledger_in(request.param)


@pytest.fixture
def server(place: None, tracked: None, db: None, server: ScriptedSMTP) -> ScriptedSMTP:
    """A mail server, and an empty ledger."""
    return server


def everything() -> str:
    """All that is kept anywhere, as text."""
    store = factory.get_ledger(app).store
    texts = [repr(getattr(store, "_entries", ""))]
    if hasattr(store, "client"):
        texts += [repr(store.client.get(key)) for key in store.client.scan_iter("idem:{*}:*")]
    with connection.cursor() as cursor:
        for table in ("logicalemail", "delivery", "sendattempt"):
            cursor.execute(f"SELECT * FROM celery_idempotent_{table}")
            texts.append(repr(cursor.fetchall()))
    return "\n".join(texts)


def run(task_id: str, *args: Any) -> Any:
    return mail.apply(args, task_id=task_id)


def test_digest_and_mask_leave_every_store_and_the_key_stays_closed(
    server: ScriptedSMTP, settings: Any
) -> None:
    """In all generations, in labels, results and what the server said; the other recipient stays."""
    server.script["rcpt"] = [f"250 {ANN} ok", f"250 {BOB} ok", f"250 {ANN} ok", "250 ok"]
    run("one", 1, ANN, (BOB,)).get()
    run(mail.resend(1, ANN, (BOB,), actor="bob", reason=f"{ANN} lost it").id, 1, ANN, (BOB,)).get()
    run("two", 2, BOB).get()
    salt = settings.SECRET_KEY
    ann, bob = (recipient(address, salt, "masked") for address in (ANN, BOB))
    before, rows = everything(), Delivery.objects.count()
    assert ann.shown in before
    found = forget("Ann <ANN@example.com>", **WHY)
    assert (len(found.erased), found.left) == (1, {})
    after = everything()
    for trace in (ANN, ann.shown, ann.digest):
        assert trace not in after
    assert bob.shown in after
    assert Delivery.objects.count() == rows, "in place of each row is one that names nobody"
    count = len(server.accepted)
    assert run("three", 1, ANN, (BOB,)).get() is None, "its result showed the address"
    assert len(server.accepted) == count
    entry = mail.entry_for(1, ANN)
    assert entry is not None
    assert (entry.status, entry.audit[-1].actor) == (Status.SENT, "dpo")
    assert run("four", 2, BOB).get() == {"to": BOB, "n": 2}
    assert forget(ANN, **WHY).erased == set(), "nothing is left to be found"


def test_the_digest_in_a_label_is_forgotten_as_well(server: ScriptedSMTP, settings: Any) -> None:
    """With `RECIPIENTS = "digest"` its beginning stands for a key field that is the address."""
    settings.CELERY_IDEMPOTENT |= {"RECIPIENTS": "digest"}
    run("one", 1, ANN, (BOB,)).get()
    ann, bob = (recipient(address, settings.SECRET_KEY, "digest").digest[:12] for address in (ANN, BOB))
    assert f"to={ann}" in everything()
    assert len(forget(ANN, **WHY).erased) == 1
    assert ann not in everything()
    assert bob in everything()


def test_the_decision_itself_does_not_name_them(server: ScriptedSMTP) -> None:
    """Neither who decided nor why."""
    run("one", 1, ANN).get()
    forget(ANN, actor=ANN, reason=f"{ANN} asked for it", app=app)
    after = everything()
    for trace in (ANN, recipient(ANN, "", "masked").shown):
        assert trace not in after
    assert mail.entry_for(1, ANN).audit[-1].reason == "(forgotten) asked for it"  # type: ignore[union-attr]


def test_messages_that_wait_go_with_it(server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the outbox whose worker could not remove it has the address; those of others stay."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)
    run(mail.enqueue(1, ANN).id, 1, ANN).get()
    mail.enqueue(2, BOB)
    assert OutboxMessage.objects.count() == 2
    forget(ANN, **WHY)
    assert [row.label for row in OutboxMessage.objects.all()] == ["n=2, to=b***@example.com"]


@pytest.mark.parametrize("asked", ["Ann <Ann@Bücher.example>", "ann@xn--bcher-kva.example"])
def test_a_domain_is_erased_in_every_spelling(server: ScriptedSMTP, asked: str) -> None:
    """The ledger has it in ASCII, results and reasons have it as people write it."""
    readable, ascii_form = "ann@bücher.example", "ann@xn--bcher-kva.example"
    run("one", 1, readable).get()
    run(mail.resend(1, readable, actor="shop", reason="lost").id, 1, readable).get()
    assert readable in result_of(1, readable)
    forget(asked, **WHY)
    assert result_of(1, readable) == "None"
    after = everything()
    for trace in (readable, ascii_form, "a***@"):
        assert trace not in after


def result_of(n: int, to: str) -> str:
    entry = mail.entry_for(n, to)
    assert entry is not None
    return str(entry.result)


def test_who_asked_for_a_resend_may_be_the_recipient(server: ScriptedSMTP) -> None:
    """An earlier decision keeps its reason and its time, and names them no more."""
    run("one", 1, ANN).get()
    run(mail.resend(1, ANN, actor=ANN, reason="lost it").id, 1, ANN).get()
    assert ANN in everything()
    forget(ANN, **WHY)
    assert ANN not in everything()
    entry = mail.entry_for(1, ANN)
    assert entry is not None
    assert (entry.audit[0].actor, entry.audit[0].reason) == ("(forgotten)", "lost it")


@pytest.mark.parametrize("letters", ["", "İ", "İ" * 40])
def test_an_address_is_erased_from_any_text(letters: str) -> None:
    """Some letters have more than one in lower case; the rest of the text stays as it is."""
    text = f"{letters} ANN@Example.com, {letters} ok"
    assert scrubbed(text, [ANN]) == f"{letters} (forgotten), {letters} ok"


def test_what_was_given_up_is_cancelled(server: ScriptedSMTP) -> None:
    """Without the digest nobody could tell who has got it already."""
    server.script["rcpt"] = ["250 ok", "550 no", "250 ok"]
    with pytest.raises(RecipientsRefused):
        run("one", 1, ANN, (BOB,)).get()
    assert len(server.accepted) == 1
    forget(ANN, **WHY)
    assert mail.entry_for(1, ANN).status is Status.CANCELLED  # type: ignore[union-attr]
    run("two", 1, ANN, (BOB,)).get()
    assert len(server.accepted) == 1


def test_what_is_not_finished_is_left_and_told(server: ScriptedSMTP) -> None:
    """A retry would send a second copy to somebody whom it does not recognise."""
    server.script["rcpt"] = ["250 ok", "450 later", "250 ok"]
    run("one", 1, ANN, (BOB,))
    ledger = factory.get_ledger(app)
    stored = ledger.store.get(mail.key_for(1, ANN))
    assert stored is not None
    from dataclasses import replace

    ledger.store.swap(replace(stored.entry, status=Status.RELEASED), stored.entry.version)
    found = forget(ANN, **WHY)
    assert found.erased == set()
    assert list(found.left) == [mail.key_for(1, ANN)]
    assert "is not finished" in found.left[mail.key_for(1, ANN)]


def cut_off(task: Any, task_id: str) -> None:
    """The first of two messages got no reply; somebody has found it in the mail server's log since."""
    ledger, rules = factory.get_ledger(app), email_type_of(task).policy(False)
    claimant = Claimant(task.key_for(1), task.name, task_id, label="n=1")
    target = ("0", recipient(ANN, settings_of_django.SECRET_KEY, "masked"))
    claimed = ledger.claim(claimant, rules)
    assert isinstance(claimed, Acquired)
    entry = hold(ledger, claimed.entry, claimant, rules).begin([target], "<m@x>")
    entry = hold(ledger, entry, claimant, rules).settle({target: Reply(DeliveryStatus.IN_DOUBT)}, "<m@x>")
    entry = Operator(ledger, "me", "it is there").resolve(entry, Verdict.SENT)
    factory.get_ledger(app).show(entry)
    assert entry.unfinished


@app.task(bind=True, base=IdempotentEmailTask, key_fields=("n",), name="forgettable-pair")
def pair(self: Any, n: int) -> str:
    for to in (ANN, BOB):
        EmailMessage("Hi", "text", to=[to]).send()
    return "both"


def test_a_body_that_will_still_be_finished_is_left_and_told(
    server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ann has hers and Bob does not: whoever forgets Ann must not cost Bob his."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)
    task_id = pair.enqueue(1).id
    cut_off(pair, task_id)
    found = forget(ANN, **WHY)
    assert (found.erased, list(found.left)) == (set(), [pair.key_for(1)])
    for text in ("its body has still to be finished", task_id, "the outbox of 'default'"):
        assert text in found.left[pair.key_for(1)]
    assert OutboxMessage.objects.filter(task_id=task_id).exists()
    assert pair.apply((1,), task_id=task_id).get() == "both"
    assert [message.recipients for message in server.accepted] == [[BOB]]
    found = forget(ANN, **WHY)
    assert (found.erased, found.left, found.cut_off) == ({pair.key_for(1)}, {}, set())
    assert "a***" not in everything()


def test_a_body_that_nobody_is_known_to_finish_is_erased_and_told(
    server: ScriptedSMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of another task does not finish it; whoever is owed the rest is the operator's to serve."""
    monkeypatch.setattr(enqueue, "_publish", lambda *_: None)
    pair.enqueue(1)
    cut_off(pair, "without-outbox")
    found = forget(ANN, **WHY)
    assert (found.erased, found.left, found.cut_off) == ({pair.key_for(1)}, {}, {pair.key_for(1)})
    assert not pair.entry_for(1).unfinished
    assert "a***" not in everything()


def test_what_only_the_mirror_still_knows(server: ScriptedSMTP) -> None:
    """An entry that has expired in Redis has rows."""
    run("one", 1, ANN).get()
    store = factory.get_ledger(app).store
    if factory.get_ledger(app).mirror is None:
        assert forget(ANN, **WHY).erased == {mail.key_for(1, ANN)}
        return
    store.client.delete(store.place(mail.key_for(1, ANN)))  # type: ignore[attr-defined]
    assert forget(ANN, **WHY).erased == {mail.key_for(1, ANN)}
    assert "a***" not in everything()
    assert LogicalEmail.objects.count() == 1


@pytest.mark.parametrize("address", ["", "ann", "ann@example.com, bob@example.com"])
def test_what_is_no_address(memory_ledger: Any, address: str) -> None:
    """Told, instead of finding nobody."""
    with pytest.raises(InterventionRefused, match="one address"):
        forget(address, **WHY)
