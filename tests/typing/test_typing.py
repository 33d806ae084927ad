"""What mypy and pyright find in a project that uses the package, with celery-types installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from celery_idempotent.conf import DEFAULTS
from celery_idempotent.email_types.options import FunctionOptions, Options
from tests.typing import right_uses

HERE = Path(__file__).parent
USES = ["right_uses.py", "wrong_uses.py"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory of a user's, from which the package is one of those that are installed."""
    for name in USES:
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    return tmp_path


def output(project: Path, *command: str) -> str:
    """Return what a type checker prints about the uses in ``project``; it ends with 1 if it finds anything."""
    run = subprocess.run(
        [sys.executable, "-m", *command, *USES], cwd=project, capture_output=True, text=True, timeout=170
    )
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


def by_mypy(project: Path) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and text of what mypy finds."""
    for line in output(project, "mypy", "--strict", "--output=json").splitlines():
        found: dict[str, Any] = json.loads(line)
        if found["severity"] == "error":
            yield Path(found["file"]).name, found["line"], found["message"]


def by_pyright(project: Path) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and text of what pyright finds: by basedpyright, whose wheel has all that it needs."""
    report = json.loads(output(project, "basedpyright", "--outputjson", "--pythonpath", sys.executable))
    for found in report["generalDiagnostics"]:
        yield Path(found["file"]).name, found["range"]["start"]["line"] + 1, found["message"]


@pytest.mark.process
@pytest.mark.parametrize("find", [by_mypy, by_pyright])
def test_type_checkers_find_each_mistake_and_nothing_else(find: Any, project: Path) -> None:
    """Strictly: wrong options, wrong arguments of decorated functions, results taken for what they are not."""
    mistakes = {
        (name, number)
        for name in USES
        for number, line in enumerate((HERE / name).read_text().splitlines(), 1)
        if line.endswith("# wrong")
    }
    found = {(name, number): text for name, number, text in find(project)}
    assert {place: text for place, text in found.items() if place not in mistakes} == {}
    assert mistakes - set(found) == set()


def test_a_functions_options_have_the_types_of_a_tasks() -> None:
    """Those that a function can declare; how jobs are published and retried is their queue's business."""
    declared = {name: get_args(hint)[0] for name, hint in get_type_hints(Options).items()}
    others = {"dedupe_on_publish", "dont_autoretry_for", "filled_in"}
    assert get_type_hints(FunctionOptions) == {name: declared[name] for name in declared.keys() - others}


def test_the_settings_of_the_right_uses_exist() -> None:
    """No type checker knows the names in a dict."""
    assert set(right_uses.CELERY_IDEMPOTENT) <= set(DEFAULTS)
