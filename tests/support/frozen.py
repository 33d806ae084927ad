"""Servers that hang: they take connections, and say nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.worker import wait_for


@contextmanager
def frozen(process: subprocess.Popen[Any] | None) -> Iterator[None]:
    """Have the whole group of ``process`` stand still, and go on in the end.

    On a busy machine some threads go on working for a while after the signal: RabbitMQ's for 25 ms.
    """
    assert process is not None, "it does not run"
    members = [place for place in Path("/proc").glob("[0-9]*") if _group(place) == process.pid]
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not any(_is_at_work(stat) for one in members for stat in one.glob("task/*/stat")), 10)
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)


def _group(place: Path) -> int | None:
    try:
        return os.getpgid(int(place.name))
    except ProcessLookupError:
        return None


def _is_at_work(stat: Path) -> bool:
    """Tell whether a thread is neither stopped, nor a zombie, nor gone; ``stat`` is as in proc(5)."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "TZ"
    except OSError:
        return False
