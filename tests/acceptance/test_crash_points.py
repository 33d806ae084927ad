"""SIGKILL at every point of the protocol, in a real pool process, redelivered by the broker."""

from __future__ import annotations

import itertools

import pytest

from tests.acceptance.points import DOUBTFUL, REPLAYED, RESUMED, killed_at
from tests.support.shop import Shop

orders = itertools.count(1)


@pytest.mark.parametrize("point", RESUMED + REPLAYED)
def test_a_kill_outside_the_hand_over_loses_and_doubles_nothing(shop: Shop, point: str) -> None:
    """P1, P2, P4: the same task goes on at once, the customer gets one copy, the result is the body's."""
    order = next(orders)
    value, status, task_id = killed_at(point, shop, order)
    assert value == {"order": order, "by": task_id}
    assert status == "sent"
    assert shop.copies() == 1
    assert len(shop.bodies()) == (1 if point in REPLAYED or point == "before-claim" else 2) or (
        point == "after-claim" and len(shop.bodies()) == 1
    )


@pytest.mark.parametrize(("point", "copies"), DOUBTFUL.items())
def test_a_kill_inside_the_hand_over_is_known_as_doubt(shop: Shop, point: str, copies: int) -> None:
    """P1: the payload was on its way; nobody offers it again, and operations can see it."""
    value, status, _ = killed_at(point, shop, next(orders))
    assert value == "DeliveryInDoubt"
    assert status == "in_doubt"
    assert shop.copies() == copies


def test_an_opaque_body_that_is_killed_is_in_doubt(shop: Shop) -> None:
    """Nobody can know what such a body did."""
    value, status, _ = killed_at("opaque-body", shop, next(orders), "opaque")
    assert (value, status) == ("DeliveryInDoubt", "in_doubt")
