"""A key that cannot be offered any more: held, or left to what the task says about a doubt."""

from __future__ import annotations

from dataclasses import replace
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from cryptography.fernet import Fernet

from celery_idempotent import ClaimLost, DeliveryInDoubt, Status, Verdict
from celery_idempotent.exceptions import DeliveryUnconfirmed
from celery_idempotent.ledger.decisions import Operator
from celery_idempotent.ledger.entry import After
from celery_idempotent.ledger.held_claim import HeldClaim
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.stores import factory
from tests.mail.provider_keys.confirmations import (
    ANN,
    BOB,
    KEY,
    VERDICTS,
    asked_about,
    configured,
    confirm,
    entry,
    resent,
    run,
)
from tests.support.held_doubts import is_held, past_deadline
from tests.support.providers import KeyedSMTP


def test_a_key_that_was_taken_away_holds(settings: Any, silent: KeyedSMTP) -> None:
    """P1: content that nobody can open any more is not rendered anew under the same key."""
    run()
    offered = len(silent.keys)
    keys_lost(settings, silent)
    assert is_held(run().result)
    assert len(silent.keys) == offered
    configured(settings, ENCRYPTION_KEYS=[Fernet.generate_key().decode(), KEY])
    silent.script["dot"] = "250 ok"
    assert run().get() == "sent 1"
    assert len(silent.accepted) == 1


@pytest.mark.parametrize(
    "change", [{"EMAIL_HOST_USER": "other"}, {"PROVIDER": "lettermint"}, {"PROVIDER": None}]
)
def test_another_account_is_not_offered_it(settings: Any, silent: KeyedSMTP, change: dict[str, Any]) -> None:
    """P1: only whoever got the key can recognise it. Lettermint would look for another header."""
    run()
    offered = len(silent.keys)
    if "PROVIDER" in change:
        configured(settings, **change)
    else:
        settings.EMAIL_HOST_USER = change["EMAIL_HOST_USER"]
    assert isinstance(run().result, DeliveryInDoubt)
    assert len(silent.keys) == offered
    assert entry().status is Status.IN_DOUBT


def keys_lost(settings: Any, server: Any) -> None:
    configured(settings, ENCRYPTION_KEYS=[Fernet.generate_key().decode()])


def provider_removed(settings: Any, server: Any) -> None:
    configured(settings, PROVIDER=None)


def other_account(settings: Any, server: Any) -> None:
    settings.EMAIL_HOST_USER = "other"


def refused_for_good(settings: Any, server: Any) -> None:
    """The provider says that it had other content under this key, and says so each time."""
    server.known = dict.fromkeys(server.known, b"other content")


LOSSES = [keys_lost, provider_removed, other_account, refused_for_good]


def lose_key(silent: KeyedSMTP, settings: Any, task: Any, *people: str, by: Any = keys_lost) -> None:
    """Have ``task`` leave a doubt, and its key lost before the server answers again."""
    assert isinstance(task.apply((1, list(people))).result, DeliveryUnconfirmed)
    silent.script["dot"] = "250 ok"
    by(settings, silent)


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("task", [resent, asked_about], ids=["resent", "asked_about"])
def test_a_key_that_cannot_be_offered_any_more_leaves_the_choice_to_the_task(
    settings: Any, silent: KeyedSMTP, lose: Any, task: Any
) -> None:
    """P2: a task that rather sends twice than not at all does not wait for the end of the provider's time."""
    VERDICTS[:] = [Verdict.NOT_SENT]
    people = [ANN, BOB]
    lose_key(silent, settings, task, *people, by=lose)
    error = task.apply((1, people)).result
    assert isinstance(error, SMTPServerDisconnected)
    assert not isinstance(error, DeliveryInDoubt), "a task with retries tries it again"
    kept = task.entry_for(1, people)
    assert (kept.status, kept.provider_key, kept.sealed) == (Status.IN_DOUBT, "", "")
    assert len(silent.accepted) == 1, "nothing was offered without the key by the run that had it"
    past_deadline(factory.get_ledger().store, kept)
    assert task.apply((1, people)).get() == "sent"
    assert [sorted(received.recipients) for received in silent.accepted] == [people, people]
    kept = task.entry_for(1, people)
    assert (kept.status, {d.status for d in kept.deliveries}) == (Status.SENT, {DeliveryStatus.ACCEPTED})


@pytest.mark.parametrize("lose", LOSSES)
def test_a_key_that_cannot_be_offered_any_more_is_kept_by_hold(
    settings: Any, silent: KeyedSMTP, lose: Any
) -> None:
    """P1: it may come back, and until then nobody gets a second copy."""
    lose_key(silent, settings, confirm, ANN, by=lose)
    for _ in range(2):
        assert is_held(run().result)
    assert entry().status is Status.IN_DOUBT
    assert entry().provider_key
    assert entry().sealed
    assert len(silent.accepted) == 1


def test_a_verifier_that_does_not_know_holds_what_cannot_be_offered(settings: Any, silent: KeyedSMTP) -> None:
    """P1: "unknown" is no leave for a second copy. What it finds out later counts."""
    VERDICTS[:] = [Verdict.UNKNOWN]
    lose_key(silent, settings, asked_about, ANN)
    asked_about.apply((1, [ANN]))
    assert isinstance(asked_about.apply((1, [ANN])).result, DeliveryInDoubt)
    assert asked_about.entry_for(1, [ANN]).status is Status.IN_DOUBT
    VERDICTS.append(Verdict.SENT)
    assert asked_about.apply((1, [ANN])).get() == "sent"
    assert len(silent.accepted) == 1


def test_a_decision_meanwhile_is_not_overwritten(
    settings: Any, silent: KeyedSMTP, monkeypatch: Any, memory_ledger: Any
) -> None:
    """P1: settled while the run finds that it has no key: it stops, and the doubt has ended as sent."""
    lose_key(silent, settings, resent, ANN)
    close = HeldClaim.close_offer

    def proven_first(held: HeldClaim) -> Any:
        found = held.entry
        memory_ledger.store.swap(replace(found, deadline=After(-1)), found.version)
        stored = memory_ledger.store.get(found.key)
        Operator(memory_ledger, "ann", "it is there").resolve(stored.entry, Verdict.SENT)
        return close(held)

    monkeypatch.setattr(HeldClaim, "close_offer", proven_first)
    assert isinstance(resent.apply((1, [ANN])).result, ClaimLost)
    assert resent.entry_for(1, [ANN]).status is Status.SENT
    assert resent.apply((1, [ANN])).get() is None
    assert len(silent.accepted) == 1
