"""Kills this very process at a named point, once: when the file ``crash`` names it; ``pause`` only stops it.

Only a process that a test has started, with a folder for what they tell each other, is struck: a test that
imports the tasks runs the project's code as it is, and nothing that lies about elsewhere can stop it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from celery_idempotent.execution import reporting, run
from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.mail.smtp.transaction import Transaction

STRUCK = "TEST_DIRECTORY" in os.environ
_own = None if STRUCK else tempfile.TemporaryDirectory(prefix="tasks-")
DIRECTORY = os.environ["TEST_DIRECTORY"] if _own is None else _own.name
"""Where the tasks leave notes, and look for the test's."""


def at(point: str) -> None:
    """Die here, or stop until somebody wakes this process, if that is what the test asked for."""
    if _asked("crash", point):
        os.kill(os.getpid(), signal.SIGKILL)
    if _asked("pause", point):
        with open(_path("paused"), "a", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGSTOP)


def _asked(name: str, point: str) -> bool:
    """Tell whether the file ``name`` names ``point``, and take it away: it means one process, once."""
    try:
        with open(_path(name), encoding="utf-8") as stream:
            wanted = stream.read()
        if wanted != point:
            return False
        os.unlink(_path(name))
    except FileNotFoundError:
        return False
    return True


def _path(name: str) -> str:
    return os.path.join(DIRECTORY, name)


def meet(claimed: Any) -> None:
    """Where the test has made a folder ``barrier``: wait there until two tasks claim the same key at once."""
    place = os.path.join(_path("barrier"), claimed.key[2:18])
    end = time.monotonic() + 1
    try:
        with suppress(FileExistsError):
            os.mkdir(place)
        open(os.path.join(place, claimed.task_id), "x").close()
        while len(os.listdir(place)) < 2 and time.monotonic() < end:
            time.sleep(0.001)
    except FileNotFoundError:
        return  # there is no barrier, or no more
    except FileExistsError:
        return  # it has been here before and comes back


def around(owner: Any, name: str, before: str, after: str) -> None:
    """Die ``before`` or ``after`` a call of ``owner.name``."""
    original: Callable[..., Any] = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        at(before)
        result = original(*args, **kwargs)
        at(after)
        return result

    setattr(owner, name, wrapped)


def install() -> None:
    """Put the points in place, if this is a process to be struck."""
    if not STRUCK:
        return
    claim = Ledger.claim
    Ledger.claim = lambda self, claimant, policy: meet(claimant) or claim(self, claimant, policy)
    around(Ledger, "claim", "before-claim", "after-claim")
    around(run.Run, "begin", "after-354", "after-write-ahead")
    around(run.Run, "settle", "after-250", "after-record")
    around(run.Run, "complete", "before-complete", "after-complete")
    around(reporting.Report, "sent", "before-report", "before-ack")
    original = Transaction.send_payload

    def release(self: Transaction, smtp: Any, *rest: Any) -> Any:
        real = smtp.sock

        class Cut:
            """The socket, with a cut after the payload and one after the dot."""

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def sendall(self, data: bytes) -> None:
                real.sendall(data)
                at("after-dot" if data == b".\r\n" else "after-payload")

        smtp.sock = Cut()
        try:
            return original(self, smtp, *rest)
        finally:
            if smtp.sock is not None:
                smtp.sock = real

    Transaction.send_payload = release
