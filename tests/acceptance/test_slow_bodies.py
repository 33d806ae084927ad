"""Bodies that take longer than the lease, asked for several times at once."""

from __future__ import annotations

import itertools

from tests.acceptance import questions
from tests.support.shop import Shop

orders = itertools.count(1)


def test_bodies_that_outlast_the_lease_do_not_go_on_for_ever(shop: Shop) -> None:
    """P2: the first that is ready to send does so, whoever has taken the key over. P1: one mail, one answer."""
    order = next(orders)
    values = shop.ask(questions.run_all, [("dawdling", order, 4)] * 4)
    assert values == ["sent"] * 4
    assert len(shop.server.accepted) == 1
    assert len(shop.bodies()) <= 3, "the two pool processes were in a body each, and one more at most"
