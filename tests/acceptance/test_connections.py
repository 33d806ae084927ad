"""Connections to the mail server, kept by the processes of a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance import questions
from tests.support.shop import opened, sqlite
from tests.support.worker import wait_for

pytestmark = pytest.mark.process


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_has_no_more_connections_than_it_sends_at_once(tmp_path: Path, pool: str) -> None:
    """One for each process or thread, for as many messages as there are; at its end it says goodbye."""
    with opened(tmp_path, sqlite(tmp_path), "-c", "2", "-P", pool) as shop:
        shop.ask(questions.run_all, [("confirm", order) for order in range(2000, 2020)])
        assert shop.copies() == 20
        assert shop.server.connections <= 2
        assert shop.worker is not None
        shop.worker.process.terminate()
        wait_for(lambda: shop.server.count("quit") == shop.server.connections, 30, shop.logs)
