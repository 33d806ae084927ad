"""The matrix: every broker, with every ledger, under every pool, on pytest-celery's clusters over processes.

A combination (two workers, a broker, a result backend, a ledger, a mail server and a console) starts once, and
every test that asks for ``bed`` runs on it before the next combination starts. PostgreSQL, MariaDB and RabbitMQ
take longest to start, so all combinations of a test process share one of each; RabbitMQ's queues have the
combination's name, and a shared database is emptied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import (
    CeleryTestSetup,
    CeleryWorkerCluster,
    # Fixtures by name: as a plugin, pytest-celery would bring its Docker images along and hide the fixture
    # `celery_worker` of celery.contrib.pytest from every other folder.
    celery_backend_cluster_config,
    celery_broker_cluster_config,
    celery_setup,
    celery_setup_app,
    celery_setup_cls,
    celery_setup_name,
    celery_worker_cluster_config,
)

from tests.matrix import MATRIX, Combination, questions
from tests.matrix.bed import TRANSPORT, Bed, Ledger
from tests.matrix.servers import (
    celery_backend,
    celery_backend_cluster,
    celery_broker,
    celery_broker_cluster,
    ledger,
    mail_server,
    mariadb_database,
    postgres_database,
    template,
)
from tests.support.apps import current
from tests.support.mailserver import ScriptedSMTP
from tests.support.matrix.containers import WorkerContainer
from tests.support.matrix.nodes import LocalBackend, LocalBroker, LocalWorker
from tests.support.processes import left_running
from tests.support.shop import Shop
from tests.support.worker import environment, wait_for

__all__ = [
    "celery_backend",
    "celery_backend_cluster",
    "celery_backend_cluster_config",
    "celery_broker",
    "celery_broker_cluster",
    "celery_broker_cluster_config",
    "celery_setup",
    "celery_setup_app",
    "celery_setup_cls",
    "celery_setup_name",
    "celery_worker_cluster_config",
    "ledger",
    "mail_server",
    "mariadb_database",
    "postgres_database",
    "template",
]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark that narrows the matrix."""
    config.addinivalue_line(
        "markers", "only(brokers=..., ledgers=..., pools=...): run in these places of the matrix alone"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test of the bed its places. Where it is not to run it is not collected: nothing is skipped."""
    if "combination" not in metafunc.fixturenames:
        return
    chosen = MATRIX
    for mark in metafunc.definition.iter_markers("only"):
        unknown = set(mark.kwargs) - {"brokers", "ledgers", "pools"}
        assert not unknown, f"only() does not know {unknown}"
        for name, allowed in mark.kwargs.items():
            chosen = [place for place in chosen if getattr(place, name[:-1]) in allowed]
    metafunc.parametrize("combination", chosen, indirect=True, ids=str, scope="session")


@pytest.fixture(scope="session")
def combination(request: pytest.FixtureRequest) -> Combination:
    """Where in the matrix we are."""
    return request.param


@pytest.fixture(scope="session")
def place(combination: Combination, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The combination's directory. When everything has ended, no process may be left that belongs to it."""
    directory = tmp_path_factory.mktemp(str(combination))
    yield directory
    wait_for(lambda: not left_running(directory), 5, lambda: str(left_running(directory)))


@pytest.fixture(scope="session")
def project(
    combination: Combination,
    place: Path,
    celery_broker: LocalBroker,
    celery_backend: LocalBackend,
    ledger: Ledger,
    mail_server: ScriptedSMTP,
) -> dict[str, str]:
    """The environment of the project's processes."""
    broker, results = celery_broker.config()["url"], celery_backend.config()["url"]
    config: dict[str, Any] = {
        "task_default_queue": str(combination),  # its own, because RabbitMQ is shared
        "worker_enable_remote_control": True,  # for `revoke`
        # Looked at every second. An idle worker on RabbitMQ would need ten to notice that it is to end.
        "broker_heartbeat": 60,
        "broker_heartbeat_checkrate": 60,
    }
    transport = dict(TRANSPORT[combination.broker])
    if (combination.broker, combination.pool) == ("redis", "gevent"):
        # Once full, it asks Redis again every two seconds only.
        config["worker_prefetch_multiplier"] = 16
        # Without an event loop Kombu looks for unacknowledged messages only where two seconds pass without an
        # answer from Redis. By default there is one every second, and a lost message would never come back.
        transport["polling_interval"] = 3
    return {
        **environment(place, broker, ledger.database, mail_server.port),
        "TEST_RESULTS": results,
        # Longer than a busy SQLite may block a write: a slow hand-over is not what the matrix is about.
        # Elsewhere shorter: when it has passed, and not before, a hand-over whose process was lost is in doubt.
        "TEST_SEND_TIMEOUT": "8" if "sqlite" in ledger.database["ENGINE"] else "4",
        "TEST_IDEMPOTENT": json.dumps({"LEDGER": ledger.setting}),
        "TEST_TRANSPORT": json.dumps(transport),
        "TEST_CONFIG": json.dumps(config),
    }


@pytest.fixture(scope="session")
def celery_worker_cluster(
    combination: Combination, place: Path, project: dict[str, str]
) -> Iterator[CeleryWorkerCluster]:
    """Two workers of the combination's pool, with two bodies each at a time (solo: one). Not waited for."""
    arguments = ["-P", combination.pool, "-c", "1" if combination.pool == "solo" else "2"]
    names = ["worker1", "worker2"]
    containers = [WorkerContainer(name, place, project, str(combination), *arguments) for name in names]
    workers = [LocalWorker(container, None) for container in containers]
    try:
        for one in containers:
            one.start()
        yield CeleryWorkerCluster(*workers)
    finally:
        for worker in workers:
            worker.teardown()


@pytest.fixture(scope="session")
def celery_worker(celery_worker_cluster: CeleryWorkerCluster) -> LocalWorker:
    """The first of the workers."""
    return celery_worker_cluster[0]


@pytest.fixture(scope="session")
def console(
    place: Path, project: dict[str, str], mail_server: ScriptedSMTP, celery_worker_cluster: CeleryWorkerCluster
) -> Iterator[Shop]:
    """A process of the project for the test's questions. Starts beside the workers and empties the ledger."""
    console = Shop(place, mail_server, project)
    try:
        console.ask(questions.empty_ledger)
        yield console
    finally:
        console.stop()


@pytest.fixture
def celery_setup_config(
    celery_setup_cls: type[CeleryTestSetup],
    celery_worker_cluster_config: dict[str, Any],
    project: dict[str, str],
) -> dict[str, Any]:
    """The test's own app publishes where the workers look."""
    config = celery_setup_cls.config(celery_worker_cluster_config=celery_worker_cluster_config)
    transport = json.loads(project["TEST_TRANSPORT"])
    return {**config, **json.loads(project["TEST_CONFIG"]), "broker_transport_options": transport}


@pytest.fixture(scope="session")
def numbers(combination: Combination) -> Iterator[int]:
    """The order numbers of a combination."""
    return count(1)


@pytest.fixture(autouse=True)
def current_app() -> Iterator[None]:
    """pytest-celery makes its app Celery's current one; the tests of other folders have another."""
    with current():
        yield


@pytest.fixture
def bed(
    combination: Combination,
    place: Path,
    ledger: Ledger,
    project: dict[str, str],
    mail_server: ScriptedSMTP,
    console: Shop,
    celery_setup: CeleryTestSetup,
    numbers: Iterator[int],
    request: pytest.FixtureRequest,
) -> Iterator[Bed]:
    """The combination, tidied up before each test, and begun anew after one that failed or configured it."""
    bed = Bed(combination, place, celery_setup, console, mail_server, ledger, project, numbers)
    given, failed = dict(project), request.session.testsfailed
    bed.tidy()
    yield bed
    bed.broker.forget()
    bed.results.forget()
    celery_setup.app.close()
    configured = project != given
    project.update(given)
    if configured or request.session.testsfailed > failed:
        bed.clear()
