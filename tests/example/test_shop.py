"""The example shop on the servers that its environment variables name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.mailserver import ScriptedSMTP
from tests.support.servers import Postgres, Redis
from tests.support.worker import Worker

SHOP = Path(__file__).parents[2] / "example_proj"


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.full), "redis"])
def test_the_shop_on_real_servers(
    broker: str, postgres: Postgres, redis: Redis, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """PostgreSQL for the ledger, RabbitMQ or Redis for the messages: each mail once, every call answered."""
    place = postgres.database
    with ScriptedSMTP() as server:
        environment = {
            **os.environ,
            "PYTHONPATH": str(SHOP),
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "SHOP_DATABASE_URL": f"postgresql://{place['USER']}@{place['HOST']}:{place['PORT']}/{place['NAME']}",
            "SHOP_BROKER_URL": request.getfixturevalue(broker).url,
            "SHOP_RESULT_BACKEND": "django-db" if broker == "rabbitmq" else redis.url,
            "SHOP_EMAIL_PORT": str(server.port),
            "SHOP_DIRECTORY": str(tmp_path),
            "SHOP_DEBUG": "0",
        }
        run(["-m", "django", "migrate", "-v", "0"], environment)
        run(["-m", "django", "flush", "--no-input", "-v", "0"], environment)
        checked = run(["-m", "django", "check", "--fail-level", "WARNING"], environment)
        assert "no issues" in checked
        with Worker("shop", environment, tmp_path / "worker.log", "-c", "2"):
            values = json.loads(run(["-m", "tests.example.ordering"], environment))
    assert values == [None, None, None, {"order_id": 1}] * 3
    subjects = Counter(received.headers["Subject"] for received in server.accepted)
    assert subjects == dict.fromkeys(
        ["Your new password", "Welcome: first-steps", "Welcome: second-steps", "Order 1"], 1
    )


def run(arguments: list[str], environment: dict[str, Any]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
