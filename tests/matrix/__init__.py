"""Every broker, with every ledger, under every pool."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

BROKERS = ["redis", "rabbitmq"]
LEDGERS = ["redis", "postgres", "mariadb", "sqlite"]
POOLS = ["prefork", "threads", "gevent", "solo"]
"""Lists, not sets as in pytest-celery: the test processes of xdist have to agree on the order."""


class Combination(NamedTuple):
    """One place of the matrix."""

    broker: str
    ledger: str
    pool: str

    def __str__(self) -> str:
        return "-".join(self)


MATRIX = [Combination(*place) for place in product(BROKERS, LEDGERS, POOLS)]


def sample(seed: int) -> list[Combination]:
    """Return 8 of the 32 places: each broker with each pool and each ledger once.

    Two successive seeds have every ledger with every pool, four have every place once.
    """
    places = product(enumerate(BROKERS), enumerate(POOLS))
    return [Combination(b, LEDGERS[(m + 2 * n + seed) % len(LEDGERS)], p) for (n, b), (m, p) in places]


def seed() -> int:
    """Return the seed of the sample: ``MATRIX_SEED``, or what the commit says, or 0 without git."""
    if given := os.environ.get("MATRIX_SEED"):
        return int(given)
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int(done.stdout, 16) % len(LEDGERS)


_COMBINATION = re.compile(rf"^tests/matrix/.*\[.*\b((?:{'|'.join(BROKERS)})-\w+-(?:{'|'.join(POOLS)}))\b")


def scope(nodeid: str) -> str | None:
    """Return the combination that a test runs in; None if it is none of the matrix's."""
    found = _COMBINATION.search(nodeid)
    return found[1] if found else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make ``--dist loadscope`` give all tests of a combination to one process, whatever their module.

    For `tests.conftest`, because only that is loaded where the tests are handed out. (``--dist loadgroup`` of
    xdist 3.8 does nothing with pytest 9.2: it sets a private attribute that is no more.)
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByCombination(LoadScopeScheduling):
        """Scopes are combinations, and modules or classes elsewhere."""

        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid) or super()._split_scope(nodeid)

    return ByCombination(config, log)
