"""Connections of threads and processes: never shared, and closed once the rush is over."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import pytest

from celery_idempotent.mail.smtp.connections import pool
from tests.mail.connecting import rush, send
from tests.support.mailserver import STALL, ScriptedSMTP


def test_threads_never_share_one(server: ScriptedSMTP) -> None:
    """As many connections as messages at once, all of them used again."""
    rush(server, range(4))
    rush(server, range(4, 8))
    assert (server.connections, server.count("rset"), len(server.accepted)) == (4, 4, 8)


def test_what_nobody_takes_any_more_is_closed(server: ScriptedSMTP, settings: Any) -> None:
    """After a rush the connections of the rush go, and the one that is in use stays."""
    rush(server, range(4))
    settings.CELERY_IDEMPOTENT |= {"CONNECTION_IDLE": 0.2}
    end = time.monotonic() + 0.5
    for n in itertools.count(4):
        assert send.apply((n,)).get() == "sent"
        if time.monotonic() > end:
            break
    assert len(pool.idle()) == 1


def test_a_dead_peer_is_waited_for_once(server: ScriptedSMTP, monkeypatch: Any) -> None:
    """However many connections were open: the first that stays silent speaks for all."""
    rush(server, range(3))
    asked = []
    healthy = pool.is_healthy

    def is_healthy(smtp: Any) -> bool:
        asked.append(smtp)
        return healthy(smtp)

    monkeypatch.setattr(pool, "is_healthy", is_healthy)
    monkeypatch.setattr(pool, "health_patience", 0.1)
    server.script["rset"] = STALL
    assert send.apply((9,)).get() == "sent"
    assert (len(asked), server.connections) == (1, 4)
    assert len(pool.idle()) == 1


def test_one_connection_that_ended_says_nothing_about_the_others(server: ScriptedSMTP) -> None:
    """A server may limit the messages of each: the next one is asked, and used."""
    rush(server, range(3))
    server.script["rset"] = ["421 enough for one connection", "250 ok"]
    assert send.apply((9,)).get() == "sent"
    assert server.connections == 3


@pytest.mark.process
def test_a_child_process_does_not_use_its_parents(server: ScriptedSMTP) -> None:
    """Nor does it say a word on it: the parent goes on using it."""
    assert send.apply((1,)).get() == "sent"
    child = os.fork()
    if child == 0:
        os._exit(0 if send.apply((2,)).state == "SUCCESS" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert server.connections == 2
    assert send.apply((3,)).get() == "sent"
    assert server.connections == 2
    assert server.count("quit") == 0
