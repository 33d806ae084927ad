"""docs/tutorial.md, followed to the letter in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import django
import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tutorial.md").read_text()
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL)
WITHOUT = ("DJANGO_SETTINGS_MODULE", "CELERY_SKIP_CHECKS")
NEW = django.VERSION >= (6, 1)
FOR_US = {"": True, "from Django 6.1 on": NEW, "before Django 6.1": not NEW}


class Reader:
    """Somebody who types what the page says, and keeps what is printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name not in WITHOUT}
        self.environment = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.printed: dict[str, str] = {}

    def follow(self) -> None:
        """Write the page's files, and run its commands, in the order in which they stand there."""
        for kind, text in BLOCKS:
            if kind == "python":
                self.write(text)
                continue
            for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
                if command.startswith("celery "):
                    self.printed[command] = self.work(command)
                elif "pip install" not in command and "venv" not in command:
                    self.printed[command] = self.run(command)

    def write(self, text: str) -> None:
        """Write a file, but none for another Django. What belongs to the end of one that is there is added."""
        place, _, code = text.removeprefix("# ").partition("\n")
        name, _, whose = place.partition(", ")
        if not FOR_US[whose]:
            return
        with (self.folder / name).open("a" if name.endswith("settings.py") else "w") as file:
            file.write(code)

    def run(self, command: str) -> str:
        """Run a command that ends by itself."""
        place: dict[str, Any] = {"cwd": self.folder, "env": self.environment}
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, **place)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def work(self, command: str) -> str:
        """Run the worker until three tasks have succeeded, and a moment longer, for one mail more."""
        log = self.folder / "worker.log"
        with log.open("w") as file:
            worker = subprocess.Popen(
                command.split(), cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
        try:
            end = time.monotonic() + 90
            while log.read_text().count("] succeeded in ") < 3:
                assert worker.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            time.sleep(1)
        finally:
            worker.send_signal(signal.SIGINT)
            worker.wait(30)
        return log.read_text()


def printed_by(reader: Reader, start: str) -> str:
    """Return what the command that begins with ``start`` has printed."""
    (found,) = [text for command, text in reader.printed.items() if command.startswith(start)]
    return found


@pytest.mark.timeout(400)
def test_the_tutorial(tmp_path: Path) -> None:
    """Three calls, one mail, three answers; and everything that the page shows is printed."""
    reader = Reader(tmp_path)
    reader.follow()
    assert "System check identified no issues" in printed_by(reader, "python manage.py check")
    log = printed_by(reader, "celery ")
    assert log.count("Subject: Your order") == 1
    assert log.count("succeeded in ") == 3
    assert log.count("'confirmed 7'") == 3
    told = re.findall(r"order-confirmation: (\w+) \(order_id=7, to=a\*\*\*@example\.com\) key=1:", log)
    assert told == ["sent", "duplicate", "duplicate"]
    assert re.search(r"order-confirmation +0 +0 +1 ", printed_by(reader, "python manage.py idempotency stats"))
    assert "Done. Calls are answered" in printed_by(reader, "python manage.py idempotency show")

    tasks = tmp_path / "orders/tasks.py"
    tasks.write_text(tasks.read_text().replace('"to")', '"too")'))
    with pytest.raises(AssertionError) as refused:
        reader.run("python manage.py check")
    (shown,) = re.findall(r"```text\n(task .*)\n```", PAGE)
    assert shown in str(refused.value)
