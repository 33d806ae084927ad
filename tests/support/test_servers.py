"""The test bed itself: each server answers, survives an outage and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.servers import MariaDB, Postgres, RabbitMQ, Redis, Server
from tests.support.worker import wait_for


@pytest.mark.parametrize("kind", [Redis, Postgres, MariaDB, RabbitMQ])
def test_a_server_starts_stops_and_comes_back(kind: type[Server]) -> None:
    """The same port and the same data after an outage; no process and no directory at the end."""
    with kind() as server:
        assert server.answers()
        server.stop()
        with pytest.raises(Exception):  # noqa: B017  (each client has its own error)
            server.answers()
        server.start()
        assert server.answers()
        process = server.process.pid
    assert not os.path.exists(server.directory)
    wait_for(lambda: not alive(process), 5)


def alive(group: int) -> list[str]:
    """Return the processes of ``group`` that still run; one that waits to be reaped does not."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]
