"""`make demo`, smaller: exit status, table and figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[2] / "example_proj" / "demo.py"


@pytest.mark.full
def test_the_promise_holds_and_the_figures_say_so(tmp_path: Path) -> None:
    """One copy each with the ledger; the plain task beside it delivers the duplicates."""
    done = subprocess.run(
        [sys.executable, str(DEMO), "--mails", "60", "--events", "240", "--build", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "demo.json").read_text())
    ledger, plain = figures["ledger"], figures["plain"]
    assert list(ledger) == list(plain)
    assert (ledger["logical"], ledger["events"]) == (60, 240)
    assert (ledger["duplicates"], ledger["lost"]) == (0, 0)
    assert 54 <= ledger["sent"] <= 60
    assert ledger["in_doubt"] <= 8, "only what was killed in a hand-over"
    assert ledger["wiped"] >= 5, "or the outbox was not needed"
    assert plain["wiped"] >= 5
    assert "the broker's folder was emptied" in done.stdout
    assert ledger["republished"] >= 3, "these have no other message: without a relay they would be lost"
    assert ledger["unanswered"] == 0, "every event that was committed came to an end"
    assert plain["republished"] == 0
    assert plain["lost"] >= 1, "the plain task has no outbox"
    assert plain["unanswered"] >= 5
    assert ledger["sent"] + ledger["in_doubt"] >= 60
    assert ledger["suppressed"] > 100
    assert plain["duplicates"] > 20, "what the broker lost cannot be delivered twice, on a busy machine many"
    assert plain["suppressed"] == 0
    assert "The promise held" in done.stdout
    assert "Where to look next" in done.stdout
    shown = re.search(r"^published again +(\d+) +0$", done.stdout, re.MULTILINE)
    assert shown is not None
    assert int(shown[1]) == ledger["republished"]


@pytest.mark.process
def test_nonsense_is_refused() -> None:
    """Fewer events than mails make no storm."""
    command = [sys.executable, str(DEMO), "--mails", "5", "--events", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "at least as many events" in done.stderr


@pytest.mark.parametrize(
    ("duplicates", "in_time", "told"),
    [(0, False, "slow or busy"), (1, False, "did NOT hold"), (0, True, "did NOT hold")],
)
def test_a_slow_machine_is_not_told_that_the_promise_was_broken(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, duplicates: int, in_time: bool, told: str
) -> None:
    """What had no time to be sent is not lost. A duplicate is one, however early the end came."""
    monkeypatch.syspath_prepend(DEMO.parent)
    demo, figures = import_module("demo"), import_module("storm.figures")
    names = [field.name for field in fields(figures.Figures)]
    counted = figures.Figures(**dict.fromkeys(names, 0) | {"lost": 20, "duplicates": duplicates})
    demo.report(counted, counted, False, in_time, tmp_path)
    assert told in capsys.readouterr().out
