"""Every broker, with every ledger, under every pool."""

from __future__ import annotations

import re
from typing import Any

import pytest

BROKERS = ["redis", "rabbitmq"]
LEDGERS = ["redis", "postgres", "mariadb", "sqlite"]
POOLS = ["prefork", "threads", "gevent", "solo"]
"""Lists, not sets as in pytest-celery: the test processes of xdist have to agree on the order."""

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
