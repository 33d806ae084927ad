"""The commands of docker-compose.yml on private servers: what comes up, and what an order brings about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.example.compose import ROOT, SERVICES, build_context, seconds
from tests.support.mailserver import ScriptedSMTP
from tests.support.processes import kill_group
from tests.support.servers import Postgres, RabbitMQ, Redis, free_port
from tests.support.worker import wait_for

RUNNING = ["web", "worker", "beat"]
"""What is started here. Flower is in the image alone."""


class Stack:
    """The services' own commands as local processes, in a folder laid out as the image is."""

    def __init__(self, folder: Path, places: dict[str, str]) -> None:
        self.folder = folder
        self.places = places
        for file in build_context():
            (folder / "app" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / "app" / file)

    def here(self, text: str) -> str:
        """Put this machine's places in the stead of the containers'."""
        known = "|".join(map(re.escape, self.places))  # all at once: what is put in may look like another place
        return re.sub(known, lambda found: self.places[found[0]], text).replace("$$", "$")

    def process(self, name: str, command: list[str]) -> dict[str, Any]:
        """Return how to start ``command`` as in service ``name``."""
        environment = {key: self.here(value) for key, value in SERVICES[name]["environment"].items()}
        ours = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "app"),
            "SHOP_DIRECTORY": str(self.folder / "var"),
        }
        inherited = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
        return {
            "args": [self.here(word) for word in command],
            "cwd": self.folder / "app" / "example_proj",
            "env": {**inherited, **environment, **ours},
        }

    def run(self, name: str, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in service ``name``, as ``docker compose exec`` does."""
        how = self.process(name, list(command))
        how["env"].update(more)
        return subprocess.run(**how, capture_output=True, text=True, timeout=90, check=False)

    def healthy(self, name: str) -> bool:
        """Run the health check of service ``name`` once."""
        form, *test = SERVICES[name]["healthcheck"]["test"]
        how = self.process(name, ["sh", "-c", *test] if form == "CMD-SHELL" else test)
        timeout = seconds(SERVICES[name]["healthcheck"]["timeout"])
        return subprocess.run(**how, capture_output=True, timeout=timeout, check=False).returncode == 0

    @contextmanager
    def started(self, name: str) -> Iterator[None]:
        """Run the command of service ``name`` until the end of the with block."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                **self.process(name, SERVICES[name]["command"]), stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            kill_group(process)

    def log(self, name: str) -> str:
        """Return what service ``name`` wrote."""
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def mailpit() -> Iterator[ScriptedSMTP]:
    """A mail server in Mailpit's place."""
    with ScriptedSMTP() as server:
        yield server


@pytest.fixture(scope="module")
def stack(
    mailpit: ScriptedSMTP, postgres: Postgres, redis: Redis, rabbitmq: RabbitMQ, tmp_path_factory: Any
) -> Stack:
    """The servers of the file, empty and not yet migrated."""
    address = f"host=127.0.0.1 port={postgres.port} user=shop dbname=postgres"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop")
        connection.execute("CREATE DATABASE shop")
    web = f"127.0.0.1:{free_port()}"
    places = {
        "@postgres:5432": f"@127.0.0.1:{postgres.port}",
        "//redis:6379": f"//127.0.0.1:{redis.port}",
        "shop:shop@rabbitmq:5672": f"guest:guest@127.0.0.1:{rabbitmq.port}",
        "mailpit": "127.0.0.1",
        "1025": str(mailpit.port),
        "0.0.0.0:8000": web,
        "127.0.0.1:8000": web,
    }
    return Stack(tmp_path_factory.mktemp("image"), places)


@pytest.fixture(scope="module")
def before(stack: Stack) -> dict[str, bool]:
    """What the health checks say while nothing runs."""
    return {name: stack.healthy(name) for name in RUNNING}


@pytest.fixture(scope="module")
def running(stack: Stack, before: dict[str, bool]) -> Iterator[Stack]:
    """Everything of ours but Flower, once ``migrate`` is through."""
    migrated = stack.run("migrate", *SERVICES["migrate"]["command"])
    assert migrated.returncode == 0, migrated.stderr
    with ExitStack() as services:
        for name in RUNNING:
            services.enter_context(stack.started(name))
        yield stack
    # Beat may have published one more round: the broker is not ours alone.
    stack.run("worker", "celery", "-A", "shop", "purge", "--force")


def subjects(server: ScriptedSMTP, to: str) -> list[str]:
    return [received.headers["Subject"] for received in server.accepted if received.recipients == [to]]


@pytest.mark.full
@pytest.mark.parametrize("name", RUNNING)
def test_a_service_becomes_healthy(name: str, before: dict[str, bool], running: Stack) -> None:
    """The health check fails while the service does not run, and succeeds within its time once it does."""
    assert not before[name]
    check = SERVICES[name]["healthcheck"]
    patience = seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])
    wait_for(lambda: running.healthy(name), patience, lambda: running.log(name)[-3000:])


@pytest.mark.full
def test_an_order_is_confirmed_once(running: Stack, mailpit: ScriptedSMTP) -> None:
    """`manage.py order` shows one answer for each time that it asked; the customer gets one mail."""
    done = running.run("web", "python", "manage.py", "order", "7", "ann@example.com", "--times", "3")
    assert done.returncode == 0, done.stderr
    ids = re.findall(r"^published (\S+)$", done.stdout, re.M)
    assert len(set(ids)) == 3
    assert re.findall(r"^success +(\S+) \{'order_id': 7\}$", done.stdout, re.M) == ids
    assert subjects(mailpit, "ann@example.com") == ["Order 7"]


@pytest.mark.full
def test_beat_finds_a_customer_again_and_again(running: Stack, mailpit: ScriptedSMTP) -> None:
    """Round after round asks for the same onboarding mail, and it goes out once."""
    command = ["python", "manage.py", "createsuperuser", "--no-input", "--username", "bob"]
    done = running.run("web", *command, "--email", "bob@example.com", DJANGO_SUPERUSER_PASSWORD="secret")
    assert done.returncode == 0, done.stderr

    def rounds() -> int:
        return len(re.findall(r"Task shop\.tasks\.onboarding\[\S+\] succeeded", running.log("worker")))

    wait_for(lambda: rounds() >= 2, 60, lambda: running.log("worker")[-3000:] + running.log("beat")[-1000:])
    assert subjects(mailpit, "bob@example.com") == ["Welcome: first-steps"]


@pytest.mark.process
@pytest.mark.full
def test_an_order_without_a_worker_says_so(tmp_path: Path) -> None:
    """No server and no worker: the command ends with advice instead of waiting for ever."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SHOP_", "DJANGO_"))}
    environment |= {"SHOP_DIRECTORY": str(tmp_path)}

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "example_proj" / "manage.py"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert manage("migrate").returncode == 0
    assert manage("migrate", "--database=ledger").returncode == 0
    began = time.monotonic()
    done = manage("order", "7", "ann@example.com", "--times", "2", "--timeout", "1")
    assert (done.returncode, done.stdout.count("published")) == (1, 2)
    assert "no answer within 1 s. Does a worker run?" in done.stderr
    assert time.monotonic() - began < 20
    refused = manage("order", "7", "ann@example.com", "--times", "0")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "at least 1" in refused.stderr
