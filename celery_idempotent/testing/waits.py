"""Shorter waits for tests, which would otherwise sit through pauses that are made for production."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from ..execution import body, run
from ..mail.handover import HandOver
from ..mail.smtp.connections import pool


@contextmanager
def speed_up(seconds: float = 0.0) -> Iterator[None]:
    """Inside the block each of these waits lasts ``seconds``; their number and order stay as they are.

    The first deferral of recipients that a mail server refused for now (60 s; twice as long after each), the
    pauses before a doubt is offered again within a run (0.5 s and 2 s), and how long a claim's release is tried
    while the ledger does not answer (10 s). A kept SMTP connection has 1 s to answer, in place of 5 s.
    """
    waits = (
        (body, "FIRST_DEFERRAL", seconds),
        (HandOver, "pauses", tuple(seconds for _ in HandOver.pauses)),
        (run, "RELEASE_PATIENCE", seconds),
        (pool, "health_patience", min(1.0, pool.health_patience)),
    )
    with ExitStack() as stack:
        for owner, name, value in waits:
            stack.enter_context(patch.object(owner, name, value))
        yield
