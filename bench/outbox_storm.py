"""Ten thousand orders through the outbox in five minutes, while everything is killed at random.

    python -m bench.outbox_storm --orders 10000 --seconds 300

Starts its own PostgreSQL, broker, mail server, two workers and two relays, and
ends by itself. Exit status 0 means that every committed order ended delivered once, or in doubt where a process
was killed inside a hand-over, and that nothing was sent for one that was rolled back.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support.outage import Outage, Plan, kept, shown
from tests.support.servers import Postgres, RabbitMQ, Redis


def main() -> int:
    """Run the storm, print the figures and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=10_000, help="a third is rolled back (%(default)s)")
    parser.add_argument("--seconds", type=float, default=300, help="how long it lasts (%(default)s)")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--late-ack", action="store_true", help="workers acknowledge when they are done")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    plan = Plan(
        orders=options.orders,
        seconds=options.seconds,
        worker_lives=12,
        broker_lives=30,
        relay_lives=25,
        patience=600,
        redeliver_after=10,
        seed=options.seed,
        publishers=2,
        early_ack=not options.late_ack,
    )
    kind = {"redis": Redis, "rabbitmq": RabbitMQ}[options.broker]
    with tempfile.TemporaryDirectory() as folder, Postgres() as database, kind() as broker:
        figures = Outage(plan, broker, database, Path(folder)).run()
    print(shown(figures))
    print("\nThe promise held." if kept(figures) else "\nThe promise did NOT hold.")
    return 0 if kept(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
