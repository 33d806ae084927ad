"""Fixtures that every folder uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
import redis as client

from celery_idempotent.ledger.ledger import Ledger
from celery_idempotent.mail.smtp.connections import pool
from celery_idempotent.stores import factory
from celery_idempotent.testing import fresh_ledger
from tests.matrix import pytest_xdist_make_scheduler  # noqa: F401
from tests.support.mailserver import ScriptedSMTP
from tests.support.servers import MariaDB, Postgres, RabbitMQ, Redis
from tests.support.shop import Shop, opened, sqlite

pytest_plugins = ["tests.support.tiers", "tests.support.progress"]

collect_ignore = [] if django.VERSION >= (6, 1) else ["mail/test_django_6_1.py"]


@pytest.fixture(autouse=True)
def _own_settings(settings: Any) -> None:
    """A dict of the test's own: pytest-django gives back the same one, with what a ``|=`` has put into it."""
    settings.CELERY_IDEMPOTENT = dict(settings.CELERY_IDEMPOTENT)


@pytest.fixture
def keep_ledger_in(request: Any, settings: Any) -> Iterator[Callable[[str], None]]:
    """Have the ledger kept in ``"database"``, ``"memory://"``, or ``"redis"``, which is emptied."""

    def keep(place: str) -> None:
        if place == "redis":
            place = request.getfixturevalue("redis").url
            with client.Redis.from_url(place) as connected:
                connected.flushall()
        settings.CELERY_IDEMPOTENT |= {"LEDGER": place}
        factory.forget_ledgers()

    yield keep
    factory.forget_ledgers()


@pytest.fixture
def memory_ledger(_own_settings: None) -> Iterator[Ledger]:
    """A ledger of this process alone, empty."""
    with fresh_ledger() as ledger:
        yield ledger


@pytest.fixture
def server(request: Any, settings: Any) -> Iterator[ScriptedSMTP]:
    """A mail server for this process, with the script of the test's ``parametrize``, if any."""
    with ScriptedSMTP(**getattr(request, "param", {})) as server:
        settings.EMAIL_PORT = server.port
        yield server


@pytest.fixture
def tracked(settings: Any) -> Iterator[None]:
    """Mail through the ledger: Django's test runner puts its own backend in place of the project's."""
    settings.EMAIL_BACKEND = "celery_idempotent.mail.EmailBackend"
    yield
    pool.close()


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
    """The module's shop, its mail server as at first, its notes forgotten."""
    shop_process.server.reset()
    shop_process.forget()
    return shop_process
