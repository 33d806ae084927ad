"""The tasks for beat in a real worker, by name through a broker, as beat sends them."""

from __future__ import annotations

from tests.acceptance import outbox_questions, worker_questions
from tests.support.shop import Shop
from tests.support.worker import wait_for


def test_the_relay_publishes_what_was_lost(shop: Shop) -> None:
    """Published once, says its row, and not in the broker: the worker publishes it again, and sends it."""
    shop.ask(worker_questions.relay_what_was_lost, 3001)
    wait_for(lambda: shop.ask(outbox_questions.count_waiting) == 0, 60, shop.logs)
    assert shop.copies() == 1
    assert "relay: 1 published, 0 done, 0 waiting" in shop.log()


def test_the_sweep_releases_what_was_left(shop: Shop) -> None:
    """A lease that has passed, of a process that is gone: the key is free again, and who comes next sends."""
    released, status, result = shop.ask(worker_questions.sweep_what_was_left, 3002)
    assert (released, status, result) == (1, "released", 3002)
    assert shop.copies() == 1


def test_the_purge_removes_what_is_old(shop: Shop) -> None:
    """Longer unchanged than ``RETENTION``, and finished; what is younger stays."""
    removed, old, young = shop.ask(worker_questions.purge_the_older, 3003, 3004)
    assert (removed, old, young) == (1, True, "sent")
