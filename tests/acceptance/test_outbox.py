"""P2 on real servers: what was committed is delivered, whoever is killed; what was rolled back is not."""

from __future__ import annotations

from pathlib import Path

from tests.support.outage import Outage, Plan, kept, shown
from tests.support.servers import Postgres, RabbitMQ, Redis


def test_everything_is_killed_and_every_committed_order_arrives_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    """A Redis that forgets everything, workers that acknowledge early, relays that die with rows in hand."""
    plan = Plan(orders=300, seconds=18, worker_lives=4, broker_lives=6, relay_lives=5, patience=100)
    with Redis() as broker:
        figures = Outage(plan, broker, postgres, tmp_path).run()
    assert kept(figures), shown(figures)
    assert (figures.committed, figures.rolled_back) == (200, 100)
    assert figures.delivered_once >= 200 - figures.in_doubt
    assert figures.broker_killed >= 1, "or this shows nothing"
    assert figures.workers_killed >= 2


def test_the_same_on_rabbitmq(postgres: Postgres, tmp_path: Path) -> None:
    """With late acknowledgement the broker and the relay both deliver again: harmless."""
    plan = Plan(
        orders=90, seconds=12, worker_lives=5, broker_lives=7, relay_lives=60, patience=100, early_ack=False
    )
    with RabbitMQ() as broker:
        figures = Outage(plan, broker, postgres, tmp_path).run()
    assert kept(figures), shown(figures)
    assert (figures.committed, figures.rolled_back) == (60, 30)
    assert figures.broker_killed >= 1
