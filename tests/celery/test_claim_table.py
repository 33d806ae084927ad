"""Every row of the table of what a claim finds, through a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.shop import Shop, opened, sqlite

pytestmark = pytest.mark.process
RUN = """
import time
from celery_idempotent.ledger.status import DeliveryStatus
from tests.support.seeded_entries import Seed
begun = time.monotonic()
{seed}
result = {task}.apply_async({args}, task_id="claimant-{order}")
try:
    value = result.get(timeout=60)
except Exception as error:
    value = type(error).__name__
took = time.monotonic() - begun
entry = {task}.entry_for(*{args})
answer([value, entry.status, entry.generation, took, [d.status for d in entry.deliveries]])
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: Any) -> Iterator[Shop]:
    """SQLite, and a worker with threads."""
    directory = tmp_path_factory.mktemp("table")
    with opened(directory, sqlite(directory), "-P", "threads", "-c", "2") as shop:
        yield shop


PATIENCE = 20
"""Seconds within which everything here ends: what is not to wait would do so for a minute."""
SENT = {"order": "sent by the body"}
SEED = "Seed(confirm, {order}"
DOUBT = "settled(DeliveryStatus.IN_DOUBT)"
# name: (task, seed, value, status, generation, copies, seconds from the seed on that it takes at least)
ROWS: dict[str, tuple[str, str, Any, str, int, int, float]] = {
    "nothing": ("confirm", "", SENT, "sent", 1, 1, 0),
    "claimed, same task id": ("confirm", SEED + ", by='claimant-{order}').claimed()", SENT, "sent", 1, 1, 0),
    "claimed, lease passed": (
        "confirm", SEED + ", lease=0.2).claimed(); time.sleep(0.3)", SENT, "sent", 1, 1, 0),
    "claimed, lease running": ("confirm", SEED + ", lease=2).claimed()", SENT, "sent", 1, 1, 1.9),
    "sending, deadline running": (
        "confirm", SEED + ", send_timeout=2).sending()", "DeliveryInDoubt", "in_doubt", 1, 0, 1.9),
    "sending, deadline running, same task id": (
        "confirm", SEED + ", by='claimant-{order}', send_timeout=2).sending()",
        "DeliveryInDoubt", "in_doubt", 1, 0, 1.9),
    "sending, deadline passed": (
        "confirm", SEED + ", send_timeout=0.2).sending(); time.sleep(0.3)",
        "DeliveryInDoubt", "in_doubt", 1, 0, 0),
    "released, another's retry scheduled": (
        "confirm", SEED + ", lease=1).released(retry_in=1)", SENT, "sent", 1, 1, 1.9),
    "released, its own retry scheduled": (
        "confirm", SEED + ", by='claimant-{order}').released(retry_in=60)", SENT, "sent", 1, 1, 0),
    "released": ("confirm", SEED + ").released()", SENT, "sent", 1, 1, 0),
    "sent": ("confirm", SEED + ").sent('before')", "before", "sent", 1, 0, 0),
    "sent, inside the window": (
        "daily", "Seed(daily, {order}, window=86_400).sent('before')", "before", "sent", 1, 0, 0),
    "sent, window passed": (
        "reminder", "Seed(reminder, {order}, window=2).sent('before'); time.sleep(2.1)",
        "reminded", "sent", 2, 1, 0),
    "sent, window passed, took part": (
        "reminder", "Seed(reminder, {order}, by='claimant-{order}', window=2).sent('before'); time.sleep(2.1)",
        "before", "sent", 1, 0, 0),
    "sent, unfinished": ("confirm", SEED + ").unfinished()", None, "sent", 1, 0, 0),
    "sent, unfinished, same task id": (
        "confirm", SEED + ", by='claimant-{order}').unfinished()", SENT, "sent", 1, 0, 0),
    "failed, deferred": ("confirm", SEED + ").failed(DeliveryStatus.DEFERRED)", SENT, "sent", 1, 1, 0),
    "failed, accepted": ("confirm", SEED + ").failed(DeliveryStatus.ACCEPTED)", SENT, "sent", 1, 0, 0),
    "failed, refused": (
        "confirm", SEED + ").failed(DeliveryStatus.REFUSED)", "RecipientsRefused", "failed", 1, 0, 0),
    "in doubt, hold": ("confirm", SEED + ")." + DOUBT, "DeliveryInDoubt", "in_doubt", 1, 0, 0),
    "in doubt, resend": ("insistent", "Seed(insistent, {order})." + DOUBT, "sent", "sent", 1, 1, 0),
    "in doubt, verified as not sent": (
        "verified", "Seed(verified, {order}, 'not sent', send_timeout=0.2)." + DOUBT + "; time.sleep(0.3)",
        "sent", "sent", 1, 1, 0),
    "in doubt, verified as not sent before the deadline": (
        "verified", "Seed(verified, {order}, 'not sent', send_timeout=2)." + DOUBT, "sent", "sent", 1, 1, 1.9),
    "in doubt, verified as sent": (
        "verified", "Seed(verified, {order}, 'sent')." + DOUBT, "sent", "sent", 1, 0, 0),
    "in doubt, not to be verified": (
        "verified", "Seed(verified, {order}, 'unknown')." + DOUBT, "DeliveryInDoubt", "in_doubt", 1, 0, 0),
    "cancelled": ("confirm", SEED + ").cancelled()", None, "cancelled", 1, 0, 0),
}  # fmt: skip


SAMPLE = {
    "nothing",  # acquired
    "claimed, lease running",  # busy, then acquired
    "sending, deadline running",  # busy, then held
    "sent",  # a duplicate
    "sent, unfinished, same task id",  # acquired, to finish it
    "in doubt, hold",  # held
}
"""A row for each kind of answer, in the tier `test`; tests/core walks all of them in virtual time."""


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[] if row in SAMPLE else pytest.mark.full) for row in ROWS]
)
def test_what_a_claim_finds(shop: Shop, row: str) -> None:
    """The outcome, the entry afterwards, the copies at the mail server, and whether it waited."""
    task, seed, wanted, wanted_status, wanted_generation, copies, least = ROWS[row]
    order = 2000 + list(ROWS).index(row)
    shop.server.accepted.clear()
    verdict = seed.split("'")[1] if task == "verified" else None
    args = f"({order}, {verdict!r})" if verdict else f"({order},)"
    value, status, generation, took, deliveries = shop.ask(
        RUN.format(seed=seed.format(order=order), task=task, args=args, order=order)
    )
    if wanted is SENT:
        wanted = {"order": order, "by": f"claimant-{order}"}
    assert (value, status, generation) == (wanted, wanted_status, wanted_generation), shop.logs()
    assert shop.copies() == copies
    assert least <= took < PATIENCE
    if status == "sent" and row != "sent, inside the window":
        assert deliveries == ["accepted"]
