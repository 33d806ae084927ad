"""pytest-celery's nodes over local processes: what it asks of Docker's, without an engine."""

from __future__ import annotations

from typing import Any

import psutil
import redis
from celery._state import _get_active_apps
from kombu import pools
from pytest_celery import (
    CeleryTestBroker,
    CeleryTestNode,
    CeleryTestWorker,
    RedisTestBackend,
)
from pytest_docker_tools.exceptions import TimeoutError as NotInTime

from tests.support.worker import wait_for


class LocalNode(CeleryTestNode):
    """A node of pytest-celery that looks twenty times a second, and can be stopped and started."""

    def stop(self) -> None:
        """Begin an outage: everything ends at once."""
        self.container.part.stop()

    def start(self) -> None:
        """End an outage, and wait until it answers."""
        self.container.start()
        self.ready()

    def running(self) -> bool:
        """Tell whether it runs."""
        return bool(self.container.status == "running")

    def restart(self, reload_container: bool = True, force: bool = False) -> None:
        """Restart (a worker: warm, unless ``force``), and wait until it answers."""
        if force:
            self.kill(reload_container=reload_container)
        super().restart(reload_container)
        self.ready()

    def mark(self) -> int:
        """Return a place in the log, for `wait_for_log`."""
        return len(self.logs())

    def wait_for_log(self, log: str, message: str = "", timeout: float = 60, since: int = 0) -> None:
        """Wait until ``log`` was logged, after the place ``since`` if that is given."""
        why = message or f"{self.name()} did not log {log!r}"
        try:
            wait_for(lambda: log in self.logs()[since:], timeout, lambda: f"{why}: {self.logs()[-3000:]}")
        except AssertionError as error:
            # What assert_log_exists and assert_log_does_not_exist expect.
            raise NotInTime(str(error)) from None

    def assert_log_exists(self, log: str, message: str = "", timeout: float = 60) -> None:
        """Wait until ``log`` was logged, or fail with the end of the log."""
        try:
            self.wait_for_log(log, message, timeout)
        except NotInTime as error:
            raise AssertionError(str(error)) from None


class LocalBroker(LocalNode, CeleryTestBroker):
    """The broker."""

    def start(self) -> None:
        """End an outage; the app's connections were to the process before it."""
        super().start()
        self.forget()

    def restart(self, reload_container: bool = True, force: bool = False) -> None:
        """Restart, and wait until it answers."""
        super().restart(reload_container, force)
        self.forget()

    def forget(self) -> None:
        """Close this process's connections; Kombu keeps them by address, for all apps."""
        pools.reset()
        for app in _get_active_apps():
            app._after_fork()

    def purge(self, queue: str) -> None:
        """Forget every message, those that a worker has not acknowledged as well. No worker may run."""
        with self.container.client as client:
            if isinstance(client, redis.Redis):
                client.flushall()
            else:
                client.default_channel.queue_delete(queue)


class LocalBackend(LocalNode, RedisTestBackend):
    """The result backend."""

    def forget(self) -> None:
        """Close this process's connections, which the garbage collector would find open."""
        if self.app:
            self.app.backend.result_consumer.stop()
            self.app.backend.client.connection_pool.disconnect()


class LocalWorker(LocalNode, CeleryTestWorker):
    """A worker."""

    @property
    def pid(self) -> int:
        """The main process. To kill that alone, and leave its pool behind, use `os.kill`."""
        pid = self.container.part.pid
        assert pid is not None, f"{self.name()} does not run"
        return int(pid)

    def children(self) -> list[int]:
        """Return the process ids of the pool; none for threads, gevent and solo."""
        return [child.pid for child in psutil.Process(self.pid).children()]

    def ended(self, timeout: float = 30) -> None:
        """Wait until the main process has ended by itself, and end what it left behind."""
        wait_for(lambda: not self.running(), timeout, lambda: self.logs()[-3000:])
        self.container.reload()

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Return what is known of the worker's processes, the main one first."""
        main = psutil.Process(self.pid)
        found = [process.as_dict(columns) for process in [main, *main.children(recursive=True)]]
        wanted = (filters or {}).items()
        return [one for one in found if all(one.get(key) == value for key, value in wanted)]
