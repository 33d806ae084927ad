"""Every row of the table of what a claim finds, through a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.celery.claim_questions import claim_after
from tests.support.shop import Shop, opened, sqlite

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def shop(tmp_path_factory: Any) -> Iterator[Shop]:
    """SQLite, and a worker with threads."""
    directory = tmp_path_factory.mktemp("table")
    with opened(directory, sqlite(directory), "-P", "threads", "-c", "2") as shop:
        yield shop


PATIENCE = 20
"""Seconds within which everything here ends: what is not to wait would do so for a minute."""
SENT = {"order": "sent by the body"}
OWN = "claimant"
"""Stands for the task id of the run that claims."""
Left = dict[str, Any]
"""What another run left before, as `claim_after` takes it."""


def left(state: str, given: Any = None, **more: Any) -> Left:
    """Return what another run left in ``state``."""
    return {"state": state, "given": given, **more}


IN_DOUBT = ("settled", "in_doubt")
# name: (task and more arguments, what was left, value, status, generation, copies, least seconds)
ROWS: dict[str, tuple[tuple[str, ...], Left, Any, str, int, int, float]] = {
    "nothing": (("confirm",), {}, SENT, "sent", 1, 1, 0),
    "claimed, same task id": (("confirm",), left("claimed", by=OWN), SENT, "sent", 1, 1, 0),
    "claimed, lease passed": (("confirm",), left("claimed", lease=0.2, pause=0.3), SENT, "sent", 1, 1, 0),
    "claimed, lease running": (("confirm",), left("claimed", lease=2), SENT, "sent", 1, 1, 1.9),
    "sending, deadline running": (
        ("confirm",), left("sending", send_timeout=2), "DeliveryInDoubt", "in_doubt", 1, 0, 1.9),
    "sending, deadline running, same task id": (
        ("confirm",), left("sending", by=OWN, send_timeout=2), "DeliveryInDoubt", "in_doubt", 1, 0, 1.9),
    "sending, deadline passed": (
        ("confirm",), left("sending", send_timeout=0.2, pause=0.3), "DeliveryInDoubt", "in_doubt", 1, 0, 0),
    "released, another's retry scheduled": (
        ("confirm",), left("released", options={"retry_in": 1}, lease=1), SENT, "sent", 1, 1, 1.9),
    "released, its own retry scheduled": (
        ("confirm",), left("released", options={"retry_in": 60}, by=OWN), SENT, "sent", 1, 1, 0),
    "released": (("confirm",), left("released"), SENT, "sent", 1, 1, 0),
    "sent": (("confirm",), left("sent", "before"), "before", "sent", 1, 0, 0),
    "sent, inside the window": (
        ("daily",), left("sent", "before", window=86_400), "before", "sent", 1, 0, 0),
    "sent, window passed": (
        ("reminder",), left("sent", "before", window=2, pause=2.1), "reminded", "sent", 2, 1, 0),
    "sent, window passed, took part": (
        ("reminder",), left("sent", "before", by=OWN, window=2, pause=2.1), "before", "sent", 1, 0, 0),
    "sent, unfinished": (("confirm",), left("unfinished"), None, "sent", 1, 0, 0),
    "sent, unfinished, same task id": (("confirm",), left("unfinished", by=OWN), SENT, "sent", 1, 0, 0),
    "failed, deferred": (("confirm",), left("failed", "deferred"), SENT, "sent", 1, 1, 0),
    "failed, accepted": (("confirm",), left("failed", "accepted"), SENT, "sent", 1, 0, 0),
    "failed, refused": (("confirm",), left("failed", "refused"), "RecipientsRefused", "failed", 1, 0, 0),
    "in doubt, hold": (("confirm",), left(*IN_DOUBT), "DeliveryInDoubt", "in_doubt", 1, 0, 0),
    "in doubt, resend": (("insistent",), left(*IN_DOUBT), "sent", "sent", 1, 1, 0),
    "in doubt, verified as not sent": (
        ("verified", "not sent"), left(*IN_DOUBT, send_timeout=0.2, pause=0.3), "sent", "sent", 1, 1, 0),
    "in doubt, verified as not sent before the deadline": (
        ("verified", "not sent"), left(*IN_DOUBT, send_timeout=2), "sent", "sent", 1, 1, 1.9),
    "in doubt, verified as sent": (("verified", "sent"), left(*IN_DOUBT), "sent", "sent", 1, 0, 0),
    "in doubt, not to be verified": (
        ("verified", "unknown"), left(*IN_DOUBT), "DeliveryInDoubt", "in_doubt", 1, 0, 0),
    "cancelled": (("confirm",), left("cancelled"), None, "cancelled", 1, 0, 0),
}  # fmt: skip


SAMPLE = {
    "nothing",  # acquired
    "claimed, lease running",  # busy, then acquired
    "sending, deadline running",  # busy, then held
    "sent",  # a duplicate
    "sent, unfinished, same task id",  # acquired, to finish it
    "in doubt, hold",  # held
}
"""A row for each kind of answer, in the tier `test`; tests/ledger walks all of them in virtual time."""


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[] if row in SAMPLE else pytest.mark.full) for row in ROWS]
)
def test_what_a_claim_finds(shop: Shop, row: str) -> None:
    """The outcome, the entry afterwards, the copies at the mail server, and whether it waited."""
    (task, *more), given, wanted, wanted_status, wanted_generation, copies, least = ROWS[row]
    order = 2000 + list(ROWS).index(row)
    shop.server.accepted.clear()
    task_id = f"claimant-{order}"
    by = {"by": task_id} if given.get("by") == OWN else {}
    value, status, generation, took, deliveries = shop.ask(
        claim_after, task, [order, *more], task_id, **{**given, **by}
    )
    if wanted is SENT:
        wanted = {"order": order, "by": task_id}
    assert (value, status, generation) == (wanted, wanted_status, wanted_generation), shop.logs()
    assert shop.copies() == copies
    assert least <= took < PATIENCE
    if status == "sent" and row != "sent, inside the window":
        assert deliveries == ["accepted"]
