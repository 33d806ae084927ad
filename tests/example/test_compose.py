"""docker-compose.yml and the Dockerfile, read without an engine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import metadata
from typing import Any

import pytest

from tests.example.compose import COMPOSE, ROOT, SERVICES, build_context, seconds

ONE_SHOT = {"migrate"}
OURS = {name for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


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


@pytest.mark.process
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
