"""SIGKILL inside the hand-over, and lost replies, with a provider that recognises what it has had before."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.acceptance import questions
from tests.acceptance.points import DOUBTFUL, killed_at
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.providers import KeyedSMTP
from tests.support.shop import Shop, opened, sqlite

pytestmark = pytest.mark.process

orders = itertools.count(1)


@pytest.fixture(scope="module")
def keyed_process(tmp_path_factory: Any) -> Iterator[Shop]:
    """A project that sends through Resend's SMTP relay, and a prefork worker."""
    directory = tmp_path_factory.mktemp("keyed")
    conf = {"PROVIDER": "resend", "ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}
    more = {"TEST_IDEMPOTENT": json.dumps(conf)}
    with opened(directory, sqlite(directory), "-c", "2", mail=KeyedSMTP(), **more) as shop:
        yield shop


@pytest.fixture
def keyed(keyed_process: Shop) -> Shop:
    """The module's project, its mail server empty and obliging."""
    keyed_process.server.reset()
    keyed_process.forget()
    return keyed_process


@pytest.mark.parametrize("point", DOUBTFUL)
def test_a_kill_inside_the_hand_over_ends_as_sent(keyed: Shop, point: str) -> None:
    """P1, P2: the redelivered task waits for the deadline, offers the same once more, and there is one copy."""
    order = next(orders)
    value, status, task_id = killed_at(point, keyed, order)
    assert value == {"order": order, "by": task_id}
    assert status == "sent"
    assert keyed.copies() == 1


def test_a_task_comes_back_until_the_provider_answers(keyed: Shop) -> None:
    """Its own retries are not needed for that: the plain task has none."""
    order = next(orders)
    keyed.server.script["dot"] = [*[DROP_AFTER_ACCEPT] * 4, "250 ok"]
    value, status, task_id = keyed.ask(questions.run_and_look, "confirm", order)
    assert value == {"order": order, "by": task_id}
    assert status == "sent"
    assert keyed.copies() == 1
    assert len(set(keyed.server.keys[-5:])) == 1  # type: ignore[attr-defined]
