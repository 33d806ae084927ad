"""The real command line: exit codes, and which stream has what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process


def test_the_real_command_line(tmp_path: Path) -> None:
    """In a process of its own: exit codes, errors on stderr, JSON alone on stdout."""
    name = str(tmp_path / "ledger.sqlite3")
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_DATABASE": json.dumps({"ENGINE": "django.db.backends.sqlite3", "NAME": name}),
        "TEST_IDEMPOTENT": json.dumps({"LEDGER": "database"}),
    }

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-m", "django", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    broken = manage("idempotency", "doctor")
    assert broken.returncode == 1
    assert "run `manage.py migrate" in broken.stdout
    assert manage("migrate", "-v0").returncode == 0
    stats = manage("idempotency", "stats", "--json")
    assert (stats.returncode, json.loads(stats.stdout)) == (0, {"types": {}, "stuck": 0, "unfinished": 0})
    unknown = manage("idempotency", "show", "nothing")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "Traceback" not in unknown.stderr
    assert manage("idempotency", "resolve").returncode == 2
    helped = manage("idempotency", "--help")
    for word in (
        "stats",
        "show",
        "resolve",
        "reopen",
        "release",
        "cancel",
        "sweep",
        "purge",
        "forget",
        "doctor",
    ):
        assert word in helped.stdout
