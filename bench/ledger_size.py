"""How much slower is a claim with ten million emails in the ledger than with ten thousand?

    python -m bench.ledger_size --rows 10000000 --databases postgres,mariadb,sqlite

Starts private servers, fills two ledgers on each, and asks both in turn, in one run. Prints medians and their
ratio. Needs about 1.3 kB of disk per email and database, in the folder of temporary files. The servers' caches
are set as for a machine of 32 GB: those they come with, 128 MB, hold one percent of such a ledger. "cold" is
right after the filling, when most pages have to be fetched; "warm" is after all have been read once.

Then asks the databases how they carry out what claim, relay, sweep and purge have asked of the large ledger.
Exit status 1 means that one of the plans reads a table or an index from end to end, or that a warm claim, of a
new key or of a duplicate, took more than 1.2 times as long in the large ledger.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django
from django.db import connections

django.setup()

from bench import ledger_plans  # noqa: E402
from celery_idempotent.ledger.ledger import Ledger  # noqa: E402
from celery_idempotent.ledger.outcomes import Acquired, Duplicate  # noqa: E402
from celery_idempotent.ledger.policy import Policy  # noqa: E402
from celery_idempotent.models import Delivery, LogicalEmail, SendAttempt  # noqa: E402
from celery_idempotent.stores.database.store import DatabaseStore  # noqa: E402
from tests.support.databases import added  # noqa: E402
from tests.support.filled_ledger import claimant, fill, sent  # noqa: E402
from tests.support.servers import MariaDB, Postgres  # noqa: E402

SMALL = 10_000
WARM_UP = 200
MOST = 1.2
"""How many times as long a warm claim may take in the large ledger."""
FRESH = itertools.count(1_000_000_000)
"""Emails that no ledger has."""


def main() -> int:
    """Fill, measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="emails in the large ledger")
    parser.add_argument("--small", type=int, default=SMALL, help="emails in the small one")
    parser.add_argument("--rounds", type=int, default=2000, help="measurements of each kind")
    parser.add_argument("--cache", type=int, default=8192, help="MB of each server's own cache")
    parser.add_argument("--databases", default="postgres,mariadb,sqlite")
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # what a sweep finds
    bad: list[str] = []
    print(f"{'':10} {'':4} {'what':20} {options.small:>12,} {options.rows:>14,}   ratio   (medians, ms)")
    for name in options.databases.split(","):
        with both(name, options.small, options.rows, options.cache) as (small, large):
            for state in ("cold", "warm"):
                if state == "warm":
                    warm(f"{name}_{options.small}")
                    warm(f"{name}_{options.rows}")
                for what, kind in KINDS.items():
                    if state == "warm" or kind in (new, duplicate):
                        said = f"{name:10} {state} {what:20}"
                        ratio = report(
                            said, kind, (small, options.small), (large, options.rows), options.rounds
                        )
                        if state == "warm" and kind in (new, duplicate) and ratio > MOST:
                            bad.append(f"{name}: {what} takes {ratio:.2f} times as long, more than {MOST}")
            bad += planned(name, options.rows)
    print("\n".join(bad) or f"index probes only, and no warm claim takes more than {MOST} times as long")
    return 1 if bad else 0


def planned(name: str, rows: int) -> list[str]:
    """Print for each kind of work whether it only probes indexes, and return what does not."""
    bad, messages = [], min(rows, ledger_plans.OUTBOX)
    for work, (statements, walks) in ledger_plans.walks(f"{name}_{rows}", messages).items():
        said = "index probes only" if not walks else f"{len(walks)} NOT by index probes"
        print(f"{name:10} plan {work:20} {statements:12} statements: {said}", flush=True)
        bad += [f"{name}: {work}: {walk}" for walk in walks]
    return bad


@contextmanager
def both(name: str, small: int, large: int, cache: int) -> Iterator[tuple[Ledger, Ledger]]:
    """A small and a large ledger on one server of the kind ``name``."""
    ledgers = []
    with ExitStack() as stack:
        for rows in (small, large):
            database = stack.enter_context(opened(name, cache))
            alias = stack.enter_context(added(f"{name}_{rows}", database))
            began = time.monotonic()
            fill(alias, rows)
            print(f"{name:10} filled with {rows:,} in {time.monotonic() - began:.0f} s", flush=True)
            ledgers.append(Ledger(DatabaseStore(lambda alias=alias: alias)))
        yield ledgers[0], ledgers[1]


@contextmanager
def opened(name: str, cache: int) -> Iterator[dict[str, Any]]:
    """A database of its own."""
    if name == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            options = {
                "timeout": 30,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=wal; PRAGMA synchronous=normal",
            }
            path = str(Path(folder) / "ledger.sqlite3")
            yield {"ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": options}
        return
    server = {
        "postgres": lambda: Postgres("-c", f"shared_buffers={cache}MB", "-c", "max_wal_size=8GB"),
        "mariadb": lambda: MariaDB(f"--innodb-buffer-pool-size={cache}M", "--innodb-log-file-size=1G"),
    }[name]()
    with server:
        yield server.database


def new(ledger: Ledger, rows: int, turn: int) -> None:
    """A key that nobody has claimed: claimed."""
    assert isinstance(ledger.claim(claimant(next(FRESH)), Policy()), Acquired)


def duplicate(ledger: Ledger, rows: int, turn: int) -> None:
    """A key that was sent, anywhere in the ledger."""
    assert isinstance(ledger.claim(claimant(random.randrange(rows), "other"), Policy()), Duplicate)


def whole(ledger: Ledger, rows: int, turn: int) -> None:
    """Claim, write-ahead, outcome, result."""
    sent(ledger, next(FRESH))


def due(ledger: Ledger, rows: int, turn: int) -> None:
    """What the sweep looks for."""
    ledger.store.due(100)


def purge(ledger: Ledger, rows: int, turn: int) -> None:
    """A hundred emails that are old enough."""
    if turn % 50 == 0:
        ledger.store.purge(older_than=0, limit=100)


KINDS: dict[str, Callable[[Ledger, int, int], None]] = {
    "claim, new": new,
    "claim, duplicate": duplicate,
    "an email, all of it": whole,
    "sweep": due,
    "purge 100": purge,
}


def warm(alias: str) -> None:
    """Read all pages once, as a ledger that has been at work for a while has them in memory."""
    connection = connections[alias]
    tables = [model._meta.db_table for model in (LogicalEmail, Delivery, SendAttempt)]
    if connection.vendor == "sqlite":
        with open(connection.settings_dict["NAME"], "rb") as file:
            while file.read(1 << 20):
                pass
        return
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        for table in tables:
            for name, how in connection.introspection.get_constraints(cursor, table).items():
                if connection.vendor == "postgresql" and (how["index"] or how["unique"]):
                    cursor.execute("SELECT pg_prewarm(%s)", [name])
                elif how["index"]:
                    cursor.execute(f"SELECT COUNT(*) FROM {table} FORCE INDEX (`{name}`)")
            if connection.vendor == "postgresql":
                cursor.execute("SELECT pg_prewarm(%s)", [table])


def report(
    said: str,
    kind: Callable[[Ledger, int, int], None],
    small: tuple[Ledger, int],
    large: tuple[Ledger, int],
    rounds: int,
) -> float:
    """Ask both in turn, print the medians, and return their ratio."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(rounds + WARM_UP):
        for place, (ledger, rows) in enumerate((small, large)):
            began = time.perf_counter()
            kind(ledger, rows, turn)
            if turn >= WARM_UP and (kind is not purge or turn % 50 == 0):
                times[place].append(time.perf_counter() - began)
    one, other = (statistics.median(times[place]) * 1000 for place in (0, 1))
    print(f"{said} {one:12.3f} {other:14.3f}   {other / one:5.2f}", flush=True)
    return other / one


if __name__ == "__main__":
    sys.exit(main())
