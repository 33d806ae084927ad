"""The private servers that tests use: Redis, Sentinel, PostgreSQL, MariaDB and RabbitMQ."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

from tests.support.server import Server, find, free_port

__all__ = ["MariaDB", "Postgres", "RabbitMQ", "Redis", "Sentinel", "Server", "find", "free_port"]


class Redis(Server):
    """Redis, by default without persistence. More ``arguments`` are those of redis-server."""

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.arguments = arguments

    def command(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", "."]
        return [find("redis-server"), *place, "--repl-diskless-sync-delay", "0", *self.arguments]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class Sentinel(Server):
    """Watches one Redis under the name ``shop``, and elects a replica after half a second without it."""

    def __init__(self, primary: Redis) -> None:
        super().__init__()
        self._primary = primary

    def prepare(self) -> None:
        with open(f"{self.directory}/sentinel.conf", "w", encoding="utf-8") as file:
            file.write(
                f"port {self.port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {self._primary.port} 1\n"
                "sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 2000\n"
            )

    def command(self) -> list[str]:
        return [find("redis-server"), f"{self.directory}/sentinel.conf", "--sentinel"]

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}/0"


class Postgres(Server):
    """PostgreSQL; as user ``postgres`` when the tests run as root, which it refuses."""

    user = "postgres"
    ending = signal.SIGQUIT  # its children are in sessions of their own: only it can end them at once

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options

    def _tool(self, name: str) -> str:
        return find(name, f"/usr/lib/postgresql/*/bin/{name}")

    def prepare(self) -> None:
        self.run([self._tool("initdb"), "-D", "data", "-U", "shop", "-A", "trust", "-N", "-E", "UTF8"])

    def command(self) -> list[str]:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.directory} -F".split()
        return [self._tool("postgres"), "-D", "data", *options, "-c", "max_connections=50", *self._options]

    def answers(self) -> bool:
        import psycopg

        psycopg.connect(f"host=127.0.0.1 port={self.port} user=shop dbname=postgres", connect_timeout=2).close()
        return True

    @property
    def database(self) -> dict[str, Any]:
        place = {"NAME": "postgres", "USER": "shop", "PASSWORD": "", "HOST": "127.0.0.1", "PORT": self.port}
        return {"ENGINE": "django.db.backends.postgresql", **place}


class MariaDB(Server):
    """MariaDB with one database, ``shop``."""

    user = "mysql"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options

    def prepare(self) -> None:
        tool = find("mariadb-install-db")
        data = f"--datadir={self.directory}/data"
        self.run([tool, "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db"])

    def command(self) -> list[str]:
        # 2: what was committed survives a killed server, though not a power cut.
        options = ["--innodb-flush-log-at-trx-commit=2", f"--socket={self.directory}/socket", "--skip-log-bin"]
        place = [f"--datadir={self.directory}/data", f"--port={self.port}", "--bind-address=127.0.0.1"]
        # A starting server empties the folder of temporary tables, which all of them would share.
        place += [f"--tmpdir={self.directory}"]
        return [
            find("mariadbd"),
            "--no-defaults",
            *place,
            *options,
            "--character-set-server=utf8mb4",
            *self._options,
        ]

    def answers(self) -> bool:
        import pymysql

        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root")
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS shop")
        return True

    @property
    def database(self) -> dict[str, Any]:
        place = {"NAME": "shop", "USER": "root", "PASSWORD": "", "HOST": "127.0.0.1", "PORT": self.port}
        return {"ENGINE": "django.db.backends.mysql", **place, "OPTIONS": {"charset": "utf8mb4"}}


class RabbitMQ(Server):
    """RabbitMQ with an epmd of its own, which ends with it."""

    patience = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._epmd_port, self._dist_port = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        here = self.directory
        return {
            "HOME": here,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"shop{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_LOG_BASE": f"{here}/logs",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq",
        }

    def start(self) -> None:
        epmd = find("epmd", "/usr/lib/erlang/erts-*/bin/epmd")
        self._epmd = subprocess.Popen(
            [epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            **self._how(),
            start_new_session=True,
        )
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(10)
            self._epmd = None

    def command(self) -> list[str]:
        return [find("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")]

    def answers(self) -> bool:
        from kombu import Connection

        with Connection(self.url, connect_timeout=2) as connection:
            connection.connect()
        return True

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"
