"""Webhooks that come again, or late: they change nothing twice, and prove nothing about another mail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_idempotent import DeliveryInDoubt, Status
from celery_idempotent.contrib.anymail.message_marks import Mark
from celery_idempotent.mail.transport_protocol import HandOverId
from tests.anymail import webhooks
from tests.anymail.conftest import Use
from tests.anymail.receipts import ANN, entry, metadata, receipt
from tests.anymail.webhooks import AT, WEBHOOKS
from tests.support.providers import API


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_replayed_webhook_changes_nothing(name: str, doubtful: Any, told: Any) -> None:
    """What was genuine once is known already, to the last field of the entry."""
    post = WEBHOOKS[name]("delivered", ANN, doubtful(name))
    assert told(post) == 200
    before = entry()
    for _ in range(2):
        assert told(post) == 200
    assert entry() == before
    assert entry().deliveries[0].events == (("delivered", AT),)


DAY = 86_400.0
OLD = [("resend", DAY, 400), ("resend", -DAY, 400), ("mailgun", DAY, 200), ("sendgrid", DAY, 200)]


@pytest.mark.parametrize(("name", "age", "status"), OLD)
def test_an_old_signature(name: str, age: float, status: int, doubtful: Any, told: Any) -> None:
    """Svix's is refused altogether; the others' may be late for good reason, and change nothing twice."""
    mark = doubtful(name)
    before = entry()
    assert told(WEBHOOKS[name]("delivered", ANN, mark, age=age)) == status
    if status == 400:
        assert entry() == before
        return
    settled = entry()
    assert settled.status is Status.SENT
    assert told(WEBHOOKS[name]("delivered", ANN, mark, age=age + DAY)) == 200
    assert entry() == settled


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_replay_proves_nothing_about_the_next_generation(name: str, use: Use, told: Any) -> None:
    """P2: it says that the first mail arrived; the second one, whose reply was lost, is another mail."""
    with API("ok") as api:
        use(name, api, ENCRYPTION_KEYS=[])
        receipt.apply((1, [ANN]), task_id="first")
        first = metadata(api, name)
        assert told(post := WEBHOOKS[name]("delivered", ANN, first)) == 200
        again = receipt.resend(1, [ANN], actor="ann", reason="asked for")
        api.script = ["drop_after_accept"]
        assert isinstance(receipt.apply((1, [ANN]), task_id=again.id).result, DeliveryInDoubt)
        second = metadata(api, name)
    before = entry()
    assert (before.generation, before.status) == (2, Status.IN_DOUBT)
    assert told(post) == 200
    assert entry() == before
    assert told(WEBHOOKS[name]("delivered", ANN, second)) == 200
    assert entry().status is Status.SENT


@pytest.mark.parametrize("name", WEBHOOKS)
def test_a_replay_proves_nothing_about_an_email_that_began_anew(
    name: str, doubtful: Any, told: Any, memory_ledger: Any, clock: Callable[[float], None]
) -> None:
    """P2: purged long ago, sent once more: it has the same Message-ID and generation, and is another mail."""
    first = doubtful(name)
    memory_ledger.store.clear()
    clock(100 * DAY)
    second = doubtful(name)
    before = entry()
    for kind in ("delivered", "accepted"):  # somebody opens the old one
        assert told(WEBHOOKS[name](kind, ANN, first)) == 200
    assert entry() == before
    assert told(WEBHOOKS[name]("delivered", ANN, second)) == 200
    assert entry().status is Status.SENT


def test_an_older_generation_is_left_alone(doubtful: Any, told: Any) -> None:
    """A complaint about last year's mail says nothing about this year's."""
    mark = doubtful("postmark")
    before = entry()
    old = HandOverId(before.key, 0, 1, before.deliveries[0].message_id, before.begun_at)
    assert told(webhooks.postmark("complained", ANN, Mark.write(old, True))) == 200
    assert entry() == before
    assert mark[Mark.PLACE].startswith("1.1.")
