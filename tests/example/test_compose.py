"""docker-compose.yml and the Dockerfile, without an engine: read, and their commands run on private servers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from graphlib import TopologicalSorter
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from docker.utils.build import exclude_paths

from tests.support.mailserver import ScriptedSMTP
from tests.support.servers import Postgres, RabbitMQ, Redis, free_port
from tests.support.worker import wait_for

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
ONE_SHOT = {"migrate"}
OURS = {name for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
RUNNING = ["web", "worker", "beat"]
"""What is started here. Flower is in the image alone."""


def instructions(name: str) -> list[list[str]]:
    """Return the words of every instruction ``name`` of the Dockerfile."""
    return [shlex.split(line)[1:] for line in DOCKERFILE.splitlines() if line.startswith(f"{name} ")]


def url_hosts(service: dict[str, Any]) -> set[str]:
    """Return the other services that a service's settings name."""
    given = " ".join([*service.get("environment", {}).values(), *service.get("command", [])])
    hosts = {
        *re.findall(r"://(?:\w+:\w+@)?(\w+)", given),
        service.get("environment", {}).get("SHOP_EMAIL_HOST"),
    }
    return hosts - {None}


def build_context() -> set[str]:
    """Return the files that Docker would be sent, by its own reading of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return {file for file in exclude_paths(str(ROOT), patterns) if (ROOT / file).is_file()}


def seconds(duration: str) -> int:
    """Return the seconds of ``10s``."""
    return int(duration.removesuffix("s"))


# -- what can be read ------------------------------------------------------------------------------------


def test_the_file_keeps_to_the_compose_specification() -> None:
    """The published JSON schema of the Compose specification, as check-jsonschema ships it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "volumes"}
    assert {"web", "worker", "beat", "flower", "postgres", "redis", "rabbitmq", "mailpit", *ONE_SHOT} == set(
        SERVICES
    )


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_says_whether_it_is_well(name: str) -> None:
    """A health check with all its times for what keeps running; none for what ends by itself."""
    check = SERVICES[name].get("healthcheck")
    if name in ONE_SHOT:
        assert check is None
        return
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert check["retries"] >= 3
    assert 0 < seconds(check["timeout"]) <= seconds(check["interval"])
    assert seconds(check["start_period"]) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_talks_to(name: str) -> None:
    """Every server in its settings is waited for until it is well, and every migration until it is done."""
    awaited = SERVICES[name].get("depends_on", {})
    assert set(awaited) <= set(SERVICES)
    for other, how in awaited.items():
        expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert how == {"condition": expected}
    hosts = url_hosts(SERVICES[name])
    assert hosts <= set(SERVICES)
    if name not in ONE_SHOT:
        assert hosts <= set(awaited)
        assert name not in OURS or set(awaited) >= ONE_SHOT


def test_there_is_an_order_to_start_in() -> None:
    """No service waits for itself, by way of others or directly."""
    order = list(
        TopologicalSorter({name: SERVICES[name].get("depends_on", {}) for name in SERVICES}).static_order()
    )
    assert order.index("postgres") < order.index("migrate") < order.index("worker")


def test_images_are_pinned() -> None:
    """Each image has a version, the base image too; our own is built here."""
    bases = [words[0] for words in instructions("FROM")]
    assert bases
    for image in [*bases, *(SERVICES[name]["image"] for name in set(SERVICES) - OURS)]:
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+(\.\d+)*(-[a-z0-9-]+)?", image), image
    for name in OURS:
        assert (SERVICES[name]["build"], SERVICES[name]["image"]) == (".", "celery-idempotent-shop:local")


def test_only_this_computer_can_connect() -> None:
    """Every port is bound to 127.0.0.1, no two are the same, and its service listens on it."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == [
        "127.0.0.1:8000:8000",
        "127.0.0.1:5555:5555",
        "127.0.0.1:15672:15672",
        "127.0.0.1:8025:8025",
    ]
    for name, listens in {"web": "0.0.0.0:8000", "flower": "--port=5555"}.items():
        port = re.search(r"\d+$", listens)
        assert listens in SERVICES[name]["command"]
        assert port is not None
        assert f"//127.0.0.1:{port[0]}/" in SERVICES[name]["healthcheck"]["test"][-1]


def test_volumes_are_named_and_used() -> None:
    """What must outlive a container is in a volume of its own, and no volume is left over."""
    used = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert sorted(used) == sorted(COMPOSE["volumes"])
    assert {"postgres", "redis", "rabbitmq"} <= set(used)


def test_every_variable_is_read_by_the_settings() -> None:
    """A misspelt variable would leave the default in force, without a word."""
    settings = (ROOT / "example_proj" / "shop" / "settings.py").read_text()
    read = set(re.findall(r'environ\.get\("(SHOP_\w+)"', settings))
    given = set(re.findall(r"SHOP_\w+", (ROOT / "docker-compose.yml").read_text() + DOCKERFILE))
    assert given <= read
    assert {"SHOP_DATABASE_URL", "SHOP_BROKER_URL", "SHOP_RESULT_BACKEND", "SHOP_EMAIL_HOST"} <= given


def test_the_image_gets_what_it_copies_and_no_more() -> None:
    """.dockerignore lets through every source of COPY, and nothing that is private or built."""
    context = build_context()
    for *sources, _ in instructions("COPY"):
        for source in sources:
            assert any(file == source or file.startswith(f"{source}/") for file in context), source
    assert {file.split("/")[0] for file in context} - {"Dockerfile", ".dockerignore"} == {
        source for *sources, _ in instructions("COPY") for source in sources
    }
    assert not [file for file in context if "__pycache__" in file or "sqlite3" in file]


def test_the_image_does_not_run_as_root() -> None:
    """The last USER is an account that was made for it and owns the folder that the shop writes to."""
    user = instructions("USER")[-1][0]
    [accounts] = [words for words in instructions("RUN") if words[0] == "useradd"]
    assert user == "shop"
    assert user in accounts
    assert ["install", "-d", "-o", user] == accounts[accounts.index("install") :][:4]
    assert DOCKERFILE.rindex("\nUSER ") > DOCKERFILE.rindex("\nRUN ")
    folder = accounts[-1]
    assert f"SHOP_DIRECTORY={folder}" in instructions("ENV")[0]
    assert SERVICES["beat"]["volumes"] == [f"beat:{folder}"]


def test_the_image_installs_pinned_versions() -> None:
    """What the image installs is in constraints.txt, Flower apart, which the package knows nothing of."""
    [install] = [words for words in instructions("RUN") if words[0] == "pip"]
    assert install[:4] == ["pip", "install", "-c", "constraints.txt"]
    pinned = (ROOT / "constraints.txt").read_text().lower()
    for requirement in install[4:]:
        name, extras = re.fullmatch(r"([\w.-]+?)(?:\[([\w,]+)\])?(?:==.+)?", requirement).groups()  # type: ignore[union-attr]
        if name == ".":
            assert set(extras.split(",")) <= set(metadata("celery-idempotent").get_all("Provides-Extra"))
        elif name == "flower":
            assert requirement == "flower==${FLOWER_VERSION}"
            assert re.search(r"^ARG FLOWER_VERSION=\d+\.\d+\.\d+$", DOCKERFILE, re.M)
            assert "flower" not in pinned + (ROOT / "pyproject.toml").read_text()
        else:
            assert f"\n{name}==" in pinned


# -- what can be run -------------------------------------------------------------------------------------


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
        for place, stead in self.places.items():
            text = text.replace(place, stead)
        return text.replace("$$", "$")

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
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait(10)

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


@pytest.mark.parametrize("name", RUNNING)
def test_a_service_becomes_healthy(name: str, before: dict[str, bool], running: Stack) -> None:
    """The health check fails while the service does not run, and succeeds within its time once it does."""
    assert not before[name]
    check = SERVICES[name]["healthcheck"]
    patience = seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])
    wait_for(lambda: running.healthy(name), patience, lambda: running.log(name)[-3000:])


def test_an_order_is_confirmed_once(running: Stack, mailpit: ScriptedSMTP) -> None:
    """`manage.py order` shows one answer for each time that it asked; the customer gets one mail."""
    done = running.run("web", "python", "manage.py", "order", "7", "ann@example.com", "--times", "3")
    assert done.returncode == 0, done.stderr
    ids = re.findall(r"^published (\S+)$", done.stdout, re.M)
    assert len(set(ids)) == 3
    assert re.findall(r"^success +(\S+) \{'order_id': 7\}$", done.stdout, re.M) == ids
    assert subjects(mailpit, "ann@example.com") == ["Order 7"]


def test_beat_finds_a_customer_again_and_again(running: Stack, mailpit: ScriptedSMTP) -> None:
    """Round after round asks for the same onboarding mail, and it goes out once."""
    command = ["python", "manage.py", "createsuperuser", "--no-input", "--username", "bob"]
    done = running.run("web", *command, "--email", "bob@example.com", DJANGO_SUPERUSER_PASSWORD="secret")
    assert done.returncode == 0, done.stderr

    def rounds() -> int:
        return len(re.findall(r"Task shop\.tasks\.onboarding\[\S+\] succeeded", running.log("worker")))

    wait_for(lambda: rounds() >= 2, 60, lambda: running.log("worker")[-3000:] + running.log("beat")[-1000:])
    assert subjects(mailpit, "bob@example.com") == ["Welcome: first-steps"]


def subjects(server: ScriptedSMTP, to: str) -> list[str]:
    return [received.headers["Subject"] for received in server.accepted if received.recipients == [to]]


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
