"""The three tiers of tests: `quick` needs no process, `test` no patience, `all` leaves nothing out.

Which tests a tier runs is told by what they ask for and by their marks; what it does not run is deselected,
never skipped. Without ``--tier`` every test that pytest is given runs, at the sizes of `test`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests import matrix

T = TypeVar("T")

TIERS = ("quick", "test", "all")
EXAMPLES = {"quick": 60, "test": 60, "ci": 200, "all": 5_000}
"""How many examples Hypothesis tries, unless a test says otherwise; `HYPOTHESIS_PROFILE` names another row."""
SERVERS = {"postgres", "mariadb", "redis", "rabbitmq"}
PROCESSES = SERVERS | {"postfix", "shop_process", "rq_process", "redis_process", "site", "combination"}
"""Fixtures that start something. One that is missing here fails in the quick tier: see `forbid_processes`."""
MARKS = [
    "process: starts a server or an interpreter itself: not in the quick tier",
    "full: takes minutes, or repeats at full size what `test` holds: in `all` alone",
]


def tier() -> str:
    """Return the running tier's name; an empty one without ``--tier``."""
    return os.environ.get("TEST_TIER", "")


def sized(*, test: T, all: T) -> T:
    """Return what the running tier takes: rows, rounds, examples."""
    return all if tier() == "all" else test


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--tier``."""
    parser.addoption("--tier", choices=TIERS, default=tier() or None, help="which tests to run, at which size")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tell the tier to all that follows, before a test's module is imported."""
    os.environ["TEST_TIER"] = config.getoption("tier") or ""
    if tier() == "test":
        os.environ["MATRIX_SEED"] = str(matrix.seed())  # for the processes of xdist, whatever becomes of HEAD
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    # How long an example takes says nothing on a machine that runs other tests beside.
    lenient = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    for name, examples in EXAMPLES.items():
        hypothesis_settings.register_profile(name, lenient, max_examples=examples)
    hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or tier() or "test")
    if tier() == "quick":
        sys.addaudithook(forbid_processes)


def pytest_report_header() -> list[str]:
    """Say which part of the tests runs, and how to run the same again."""
    header = [f"tier: {tier() or 'none, so all that is named, at the sizes of `test`'}"]
    if tier() == "test":
        places = " ".join(map(str, matrix.sample(matrix.seed())))
        header.append(f"matrix: 8 of 32 places, as MATRIX_SEED={matrix.seed()} chooses them: {places}")
    return header


def is_quick(item: pytest.Item) -> bool:
    """Tell whether a test starts no process: by what it asks for, by its parameters, and by its mark."""
    asked = set(getattr(item, "fixturenames", ()))
    chosen = {value for value in _parameters(item).values() if isinstance(value, str)}
    return not (asked & PROCESSES or chosen & SERVERS or item.get_closest_marker("process"))


def is_sampled(item: pytest.Item) -> bool:
    """Tell whether a test of the matrix has its place in the sample; any other test has."""
    place = _parameters(item).get("combination")
    return place is None or place in matrix.sample(matrix.seed())


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


def runs(item: pytest.Item) -> bool:
    """Tell whether the running tier runs a test."""
    if tier() in ("", "all"):
        return True
    if item.get_closest_marker("full"):
        return False
    return is_quick(item) if tier() == "quick" else is_sampled(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the tier does not run, and put first what takes longest: the places of the matrix."""
    if left_out := [item for item in items if not runs(item)]:
        config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(filter(runs, items), key=_rank)


def _rank(item: pytest.Item) -> int:
    """Return 0 for the matrix, 1 for what starts processes, 2 for the rest."""
    return 2 if is_quick(item) else 1 if matrix.scope(item.nodeid) is None else 0


_testing = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Note that a test runs: what starts a process between tests is pytest or a plugin of it."""
    global _testing
    _testing = True
    try:
        return (yield)
    finally:
        _testing = False


def forbid_processes(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail the test of the quick tier that starts a process, so that the tier stays what it says.

    An audit hook of Python's: it hears of every way to start one, in the product's code too.
    """
    if _testing and event in {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}:
        pytest.fail(f"the quick tier starts no process ({event}{arguments!r:.200}): mark the test `process`")
