"""The test bed itself: each server answers, survives an outage and leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import redis
from kombu import Connection

from tests.support import server
from tests.support.servers import MariaDB, Postgres, RabbitMQ, Redis, Server, find, free_port
from tests.support.worker import wait_for


def in_redis(server: Redis, write: bool) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("answer", 42)
        assert client.get("answer") == b"42"


def in_sql(connection: Any, write: bool) -> None:
    with connection, connection.cursor() as cursor:
        if write:
            cursor.execute("CREATE TABLE answers (answer integer)")
            cursor.execute("INSERT INTO answers VALUES (42)")
            connection.commit()
        cursor.execute("SELECT answer FROM answers")
        assert cursor.fetchall() in ([(42,)], ((42,),))


def in_postgres(server: Postgres, write: bool) -> None:
    place = server.database
    names = {"host": place["HOST"], "port": place["PORT"], "user": place["USER"], "dbname": place["NAME"]}
    in_sql(psycopg.connect(**names), write)


def in_mariadb(server: MariaDB, write: bool) -> None:
    place = server.database
    names = {"host": place["HOST"], "port": place["PORT"], "user": place["USER"], "database": place["NAME"]}
    in_sql(pymysql.connect(**names), write)


def in_rabbitmq(server: RabbitMQ, write: bool) -> None:
    confirmed = {"confirm_publish": True}  # without it a killed broker may forget what it was just given
    with (
        Connection(server.url, transport_options=confirmed) as connection,
        connection.SimpleQueue("answers") as queue,
    ):
        if write:
            queue.put(42, delivery_mode="persistent")
            return
        message = queue.get(timeout=5)
        assert message.payload == 42
        message.ack()


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "use"),
    [(Redis, in_redis), (Postgres, in_postgres), (MariaDB, in_mariadb), (RabbitMQ, in_rabbitmq)],
)
def test_a_server_starts_stops_and_comes_back(kind: type[Server], use: Callable[[Any, bool], None]) -> None:
    """The same port and, but for Redis, the same data after an outage; nothing is left at the end."""
    with kind() as server:
        use(server, True)
        server.stop()
        with pytest.raises(Exception):  # noqa: B017  (each client has its own error)
            server.answers()
        server.start()
        use(server, False)
    assert not os.path.exists(server.directory)
    wait_for(lambda: not living_in(server.directory), 5)


def test_a_missing_program_says_how_to_get_it() -> None:
    with pytest.raises(RuntimeError, match="run scripts/servers"):
        find("no-such-server")


@pytest.mark.process
def test_a_server_that_does_not_start_leaves_nothing_and_shows_its_log() -> None:
    class Broken(Server):
        def command(self) -> list[str]:
            return ["sh", "-c", "echo the disk is full; exit 3"]

    broken = Broken()
    with pytest.raises(RuntimeError, match="the disk is full"), broken:
        pass
    assert not os.path.exists(broken.directory)


def test_ports_are_below_those_of_outgoing_connections() -> None:
    assert all(port < 32_768 for port in (free_port() for _ in range(20)))


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by one process of a run nor by another: a server may not listen yet, or be in an outage."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    given: list[int] = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        monkeypatch.setattr(server, "_PORTS", server._ports())
        given += [free_port() for _ in range(2000)]
    assert len(set(given)) == len(given)


def living_in(directory: str) -> list[str]:
    """Return the processes whose working directory is in ``directory``; zombies have none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(directory):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
