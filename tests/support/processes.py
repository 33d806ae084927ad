"""Processes that tests have started in groups of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any


def kill_group(process: subprocess.Popen[Any]) -> None:
    """End the whole group of ``process`` at once, whether or not that itself has ended, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


def left_running(directory: Path) -> dict[int, str]:
    """Return the processes whose environment names ``directory``; zombies have no environment."""
    wanted = f"TEST_DIRECTORY={directory}\0".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes() + b"\0":
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found
