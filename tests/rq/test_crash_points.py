"""SIGKILL at every point of the protocol, in a real work-horse, tried again by RQ."""

from __future__ import annotations

import itertools

import pytest

from tests.acceptance.points import DOUBTFUL, REPLAYED, RESUMED
from tests.rq import questions
from tests.support.rq import RQShop

pytestmark = pytest.mark.process

orders = itertools.count(1)


@pytest.mark.parametrize("point", RESUMED + REPLAYED)
def test_a_kill_outside_the_hand_over_loses_and_doubles_nothing(either: RQShop, point: str) -> None:
    """P1, P2, P4: the same job goes on at once, the customer gets one copy, the result is the body's."""
    order = next(orders)
    either.crash_at(point)
    (how, value), status, job_id, left = either.ask(
        questions.run_and_look_closer, "confirm", order, retry={"max": 3}
    )
    either.crashed()
    assert (how, value) == ("finished", {"order": order, "by": job_id})
    assert (status, left) == ("sent", 2)
    assert either.copies() == 1
    once = (*REPLAYED, "before-claim", "after-claim")
    assert len(either.bodies()) == (1 if point in once else 2)


@pytest.mark.parametrize(("point", "copies"), DOUBTFUL.items())
def test_a_kill_inside_the_hand_over_is_known_as_doubt(either: RQShop, point: str, copies: int) -> None:
    """P1: the payload was on its way; nobody offers it again, RQ's own retries neither."""
    order = next(orders)
    either.crash_at(point)
    outcome, status, *_ = either.ask(questions.run_and_look_closer, "confirm", order, retry={"max": 3})
    either.crashed()
    assert (outcome, status) == (["failed", "DeliveryInDoubt"], "in_doubt")
    assert either.copies() == copies
    log = (either.directory / "worker.log").read_text()
    assert log.count(f"in doubt (order={order})") == 1


def test_an_opaque_body_that_is_killed_is_in_doubt(either: RQShop) -> None:
    """Nobody can know what such a body did."""
    order = next(orders)
    either.crash_at("opaque-body")
    outcome, status, *_ = either.ask(questions.run_and_look_closer, "opaque", order, retry={"max": 3})
    assert (outcome, status) == (["failed", "DeliveryInDoubt"], "in_doubt")
    assert len(either.bodies()) == 1
