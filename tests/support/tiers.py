"""The three tiers of tests: `quick` needs no process, `test` no patience, `all` leaves nothing out.

Which tests a tier runs is told by what they ask for and by their marks; what it does not run is deselected, never
skipped. Without ``--tier`` every test that pytest is given runs, at the sizes of `test`.
"""

from __future__ import annotations

import os
from typing import TypeVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

T = TypeVar("T")

TIERS = ("quick", "test", "all")
EXAMPLES = {"quick": 60, "test": 60, "ci": 200, "all": 5_000}
"""How many examples Hypothesis tries, unless a test says otherwise; ``HYPOTHESIS_PROFILE`` names another row."""


def tier() -> str:
    """Return the running tier's name; an empty one without ``--tier``."""
    return os.environ.get("TEST_TIER", "")


def sized(*, test: T, all: T) -> T:
    """Return what the running tier takes: rows, rounds, examples."""
    return all if tier() == "all" else test


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--tier``."""
    parser.addoption("--tier", choices=TIERS, default=tier() or None, help="which tests to run, at which size")


MARKS = [
    "process: starts a server or an interpreter itself: not in the quick tier",
    "full: takes minutes, or repeats at full size what `test` holds: in `all` alone",
]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tell the tier to all that follows, before a test's module is imported."""
    os.environ["TEST_TIER"] = config.getoption("tier") or ""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    # How long an example takes says nothing on a machine that runs other tests beside.
    lenient = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    for name, examples in EXAMPLES.items():
        hypothesis_settings.register_profile(name, lenient, max_examples=examples)
    hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or tier() or "test")
