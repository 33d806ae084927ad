"""Fixtures that every folder uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django
import pytest

from celery_idempotent import wiring
from celery_idempotent.mail.connections import kept
from tests.matrix import pytest_xdist_make_scheduler  # noqa: F401
from tests.support.servers import MariaDB, Postgres, RabbitMQ, Redis
from tests.support.shop import Shop, opened, sqlite

collect_ignore = [] if django.VERSION >= (6, 1) else ["mail/test_django_6_1.py"]


@pytest.fixture
def memory_ledger(settings: Any) -> Iterator[Any]:
    """A ledger of this process alone, empty."""
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "LEDGER": "memory://"}
    wiring._ledger.cache_clear()
    yield wiring.get_ledger()
    wiring._ledger.cache_clear()


@pytest.fixture
def tracked(settings: Any) -> Iterator[None]:
    """Mail through the ledger: Django's test runner puts its own backend in place of the project's."""
    settings.EMAIL_BACKEND = "celery_idempotent.mail.EmailBackend"
    yield
    kept.close()


def _session(kind: type[Any]) -> Any:
    @pytest.fixture(scope="session", name=kind.__name__.lower())
    def server() -> Iterator[Any]:
        with kind() as running:
            yield running

    return server


# A server that is missing is an error, never a skip.
postgres = _session(Postgres)
mariadb = _session(MariaDB)
redis = _session(Redis)
rabbitmq = _session(RabbitMQ)


@pytest.fixture(scope="module")
def shop_process(tmp_path_factory: Any) -> Iterator[Shop]:
    """SQLite, and a prefork worker with two pool processes."""
    directory = tmp_path_factory.mktemp("shop")
    with opened(directory, sqlite(directory), "-c", "2") as shop:
        yield shop


@pytest.fixture
def shop(shop_process: Shop) -> Shop:
    """The module's shop, its mail server and notes emptied."""
    shop_process.server.accepted.clear()
    (shop_process.directory / "bodies").unlink(missing_ok=True)
    (shop_process.directory / "crash").unlink(missing_ok=True)
    return shop_process
