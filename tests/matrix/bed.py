"""A place of the matrix with all that runs there, as tests deal with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_celery import CeleryTestSetup

from tests.matrix import Combination
from tests.support.mailserver import ScriptedSMTP
from tests.support.matrix.containers import LocalContainer
from tests.support.matrix.nodes import LocalBackend, LocalBroker, LocalNode, LocalWorker
from tests.support.shop import Shop

VISIBILITY_TIMEOUT = 5
"""Seconds after which Redis delivers an unacknowledged message again, unless a test says otherwise."""
TRANSPORT: dict[str, dict[str, Any]] = {
    "redis": {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        # Kombu looks for unacknowledged messages every interval x throttle seconds: 10 x 10 by default.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker killed while it looks leaves its lock, and nobody looks for as long as that: 300 by default.
        "unacked_mutex_expire": 3,
    },
    # Without confirmation a killed broker may forget what it was just given.
    "rabbitmq": {"confirm_publish": True},
}


class Ledger(LocalNode):
    """Where the ledger is kept, with what the project has to know to use it."""

    def __init__(self, container: LocalContainer, database: dict[str, Any], name: str = "database") -> None:
        super().__init__(container)
        self.database = database
        """Django's."""
        self.setting = name
        """``CELERY_IDEMPOTENT["LEDGER"]``."""


@dataclass
class Bed:
    """A combination, in order: everything runs, no mail was taken, no notes were made."""

    combination: Combination
    directory: Path
    setup: CeleryTestSetup
    shop: Shop
    server: ScriptedSMTP
    ledger: Ledger
    project: dict[str, str]
    numbers: Iterator[int] = field(repr=False)

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self.combination.pool

    @property
    def broker(self) -> LocalBroker:
        """The broker's node."""
        return self.setup.broker

    @property
    def results(self) -> LocalBackend:
        """The result backend's node."""
        return self.setup.backend

    @property
    def workers(self) -> list[LocalWorker]:
        """The two workers."""
        return list(self.setup.worker_cluster)

    def order(self) -> int:
        """Return an order number that no test of this combination had."""
        return next(self.numbers)

    def configure(self, transport: dict[str, Any] | None = None, **config: Any) -> None:
        """Restart workers and console with more transport options and settings, until the test's end."""
        for name, more in (("TEST_TRANSPORT", transport or {}), ("TEST_CONFIG", config)):
            self.project[name] = json.dumps({**json.loads(self.project[name]), **more})
        self.shop.stop()
        self.renew()

    def renew(self) -> None:
        """End the workers at once, and start others."""
        for worker in self.workers:
            worker.stop()
            worker.container.start()
        self.shop.greet()
        assert self.setup.worker_cluster.ready()

    def clear(self) -> None:
        """End the workers and forget all messages: the next test has nothing to do with them."""
        self.shop.stop()
        for worker in self.workers:
            worker.stop()
        self.broker.start()
        self.broker.purge(str(self.combination))

    def tidy(self) -> None:
        """Start whatever a test left stopped, and forget what it did."""
        for node in (self.broker, self.results, self.ledger, *self.workers):
            if not node.running():
                node.container.reload()
                node.container.start()
        self.server.reset()
        self.shop.forget("fast")
        self.shop.greet()
        assert self.setup.ready()
        # Until then, a mail of a test that failed may have come in.
        self.server.accepted.clear()
        self.server.partial.clear()
