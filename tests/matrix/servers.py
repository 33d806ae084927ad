"""The servers of a combination, as fixtures for `conftest`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from django.core.management import call_command
from kombu import Connection
from pytest_celery import CeleryBackendCluster, CeleryBrokerCluster

from tests.matrix import Combination
from tests.matrix.bed import Ledger
from tests.support.mailserver import ScriptedSMTP
from tests.support.matrix.containers import LocalContainer
from tests.support.matrix.nodes import LocalBackend, LocalBroker
from tests.support.matrix.parts import DurableRedis, FilePart, ServerPart
from tests.support.shop import Shop, sqlite
from tests.support.worker import environment

SQLITE_TIMEOUT = 3
"""Seconds after which a write that another one blocks is given up."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    directory = tmp_path_factory.mktemp("template")
    migrate(directory, sqlite(directory))
    return directory / "shop.sqlite3"


@pytest.fixture(scope="session")
def postgres_database(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The matrix's own database, migrated."""
    place = postgres.database
    address = f"host={place['HOST']} port={place['PORT']} user={place['USER']} dbname={place['NAME']}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE DATABASE matrix")
    migrate(tmp_path_factory.mktemp("postgres"), database := {**place, "NAME": "matrix"})
    return database


@pytest.fixture(scope="session")
def mariadb_database(mariadb: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The matrix's own database, migrated."""
    place = mariadb.database
    connection = pymysql.connect(host=place["HOST"], port=place["PORT"], user=place["USER"])
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE matrix")
    migrate(tmp_path_factory.mktemp("mariadb"), database := {**place, "NAME": "matrix"})
    return database


def migrate(directory: Path, database: dict[str, Any]) -> None:
    """Migrate ``database`` in a process of the project."""
    shop = Shop(directory, None, environment(directory, "memory://", database, 1))  # type: ignore[arg-type]
    (directory / "worker.log").touch()
    try:
        shop.ask(call_command, "migrate", verbosity=0)
    finally:
        shop.exit()


@pytest.fixture(scope="session")
def celery_broker(combination: Combination, request: pytest.FixtureRequest) -> Iterator[LocalBroker]:
    """Redis to itself, or the shared RabbitMQ."""
    if combination.broker == "redis":
        with DurableRedis() as server:
            broker = LocalBroker(container("broker", server, server.url))
            yield broker
            broker.teardown()
        return
    server = request.getfixturevalue("rabbitmq")
    broker = LocalBroker(container("broker", server, server.url, shared=True))
    yield broker
    broker.teardown()
    with Connection(server.url) as connection:
        connection.default_channel.queue_delete(str(combination))


@pytest.fixture(scope="session")
def celery_broker_cluster(celery_broker: LocalBroker) -> CeleryBrokerCluster:
    """One broker."""
    return CeleryBrokerCluster(celery_broker)


@pytest.fixture(scope="session")
def celery_backend(combination: Combination) -> Iterator[LocalBackend]:
    """A Redis for Celery's own results, beside the ledger: an outage of the ledger is then that alone."""
    with DurableRedis() as server:
        backend = LocalBackend(container("results", server, server.url))
        yield backend
        backend.teardown()


@pytest.fixture(scope="session")
def celery_backend_cluster(celery_backend: LocalBackend) -> CeleryBackendCluster:
    """One result backend."""
    return CeleryBackendCluster(celery_backend)


@pytest.fixture(scope="session")
def ledger(
    combination: Combination, place: Path, template: Path, request: pytest.FixtureRequest
) -> Iterator[Ledger]:
    """The ledger's node. With the Redis ledger, Django's own database is an SQLite file."""
    if combination.ledger in ("postgres", "mariadb"):
        server = request.getfixturevalue(combination.ledger)
        database = request.getfixturevalue(f"{combination.ledger}_database")
        node = Ledger(LocalContainer(ServerPart("ledger", server, shared=True)), database)
        yield node
        node.teardown()
        return
    directory = place / "ledger"
    directory.mkdir()
    file = Path(shutil.copy(template, directory))
    database = sqlite(directory)
    database["OPTIONS"]["timeout"] = SQLITE_TIMEOUT
    if combination.ledger == "sqlite":
        node = Ledger(LocalContainer(FilePart("ledger", file)), database)
        yield node
        node.teardown()
        return
    with DurableRedis() as server:
        node = Ledger(container("ledger", server, server.url), database, server.url)
        yield node
        node.teardown()


def container(name: str, server: Any, url: str, shared: bool = False) -> LocalContainer:
    """Return the container of a server, with the configuration that pytest-celery asks of one."""
    facts = {"url": url, "host_url": url, "hostname": "127.0.0.1", "port": server.port, "vhost": "/"}
    return LocalContainer(ServerPart(name, server, shared), **facts)


@pytest.fixture(scope="session")
def mail_server() -> Iterator[ScriptedSMTP]:
    """Takes the mail of every combination, one after the other."""
    with ScriptedSMTP() as server:
        yield server
