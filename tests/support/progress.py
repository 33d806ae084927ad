"""How far the whole of the tests has got: a line for each part that is through, and a table at the end."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from tests import matrix
from tests.support.tiers import tier


def part_of(nodeid: str) -> str:
    """Return the part that a test belongs to: its place in the matrix, its folder, or ``tests``."""
    path = nodeid.split("::")[0].split("/")
    return (
        f"matrix {place}"
        if (place := matrix.scope(nodeid))
        else "/".join(path[:2] if len(path) > 2 else path[:1])
    )


class Progress:
    """Counts what is to come and what is through; in xdist's controller, which hears of every test."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = time.monotonic()
        self._coming: Counter[str] = Counter()
        self._through: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count what is to come, without xdist."""
        self._expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Count what is to come, once: every process of xdist collects the same."""
        self._expect(ids)

    def _expect(self, ids: list[str]) -> None:
        if ids and not self._coming:
            self._coming.update(map(part_of, ids))

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """Print no dots: there are lines."""
        return ("passed", "", "") if report.when == "call" and report.passed else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a test's phase to its part, and print the part's line after its last test."""
        part = part_of(report.nodeid)
        self._seconds[part] += int(report.duration * 1000)
        if report.failed:
            self._failed[part] += 1
            self._say(f"FAILED {report.nodeid}")
        if report.when == "teardown":
            self._through[part] += 1
            if self._through[part] == self._coming[part]:
                self._say(f"{self._line(part)}  ({self._through.total()} of {self._coming.total()} tests)")

    def pytest_terminal_summary(self) -> None:
        """Print all parts, those first that took longest."""
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        terminal.section("parts, and the seconds of one process that each took")
        for part, _ in self._seconds.most_common():
            terminal.write_line(self._line(part))

    def _line(self, part: str) -> str:
        failed = f", {self._failed[part]} FAILED" if self._failed[part] else ""
        return f"{part:<36} {self._through[part]:>5} tests {self._seconds[part] // 1000:>6} s{failed}"

    def _say(self, line: str) -> None:
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        terminal.ensure_newline()
        terminal.write_line(f"{minutes:>3}:{seconds:02} {line}")


def pytest_configure(config: pytest.Config) -> None:
    """Follow the tier `all`, which takes long."""
    if tier() == "all" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config), "progress")
