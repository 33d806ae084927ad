"""Users' tests simply work: TestCase, TransactionTestCase, eager tasks, on every database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.process


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
def test_a_users_own_test_suite_passes(kind: str, request: Any) -> None:
    """No setting, no fixture and no list of databases of ours is needed."""
    environment = dict(os.environ)
    if kind != "sqlite":
        environment["TEST_DATABASE"] = json.dumps(request.getfixturevalue(kind).database)
    command = [sys.executable, "-m", "django", "test", "--settings=tests.settings", "-v", "2"]
    command += ["tests.celery.users_own_tests", "--noinput"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Ran 9 tests" in done.stderr
