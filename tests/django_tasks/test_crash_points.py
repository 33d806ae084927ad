"""SIGKILL at every point of the protocol, in a real worker of a queue that does not deliver again.

The database backend's worker dies with its task, which stays RUNNING for ever; RQ's forks a process per job,
and the job fails. In both, the next task for the same email finds what the ledger knows.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.acceptance.points import DOUBTFUL, REPLAYED, RESUMED
from tests.django_tasks import questions
from tests.django_tasks.site import Site

orders = itertools.count(1)
DEAD = {"default": "RUNNING", "rq": "FAILED"}
"""What a task whose process was killed looks like."""


@pytest.fixture(params=["default", "rq"], ids=["db_worker", "rqworker"])
def place(request: Any, site: Site) -> tuple[Site, str]:
    """The project, and the alias of one backend."""
    return site, request.param


def kill(site: Site, alias: str, order: int, point: str, task: str = "confirm") -> Any:
    """Have the worker of a task killed at ``point`` and return the status of the entry then."""
    site.clear()
    site.crash_at(point)
    site.ask(questions.keep, "killed", alias, task, order)
    site.crashed()
    return site.ask(questions.find_status, task, order)


@pytest.mark.parametrize("point", RESUMED + REPLAYED)
def test_a_kill_outside_the_hand_over_loses_and_doubles_nothing(place: Any, point: str) -> None:
    """P1, P2: the entry stays to be seen; the next task takes over after the lease, and there is one copy."""
    site, alias = place
    order = next(orders)
    seen = kill(site, alias, order, point)
    assert seen == (None if point == "before-claim" else "sent" if point in REPLAYED else "claimed")
    (status, value), killed, entry = site.ask(questions.run_after, "killed", alias, "confirm", order)
    assert (status, value["order"], killed, entry) == ("SUCCESSFUL", order, DEAD[alias], "sent")
    assert site.copies() == 1
    assert len(site.bodies()) == (1 if point in [*REPLAYED, "before-claim", "after-claim"] else 2)


@pytest.mark.parametrize(("point", "copies"), DOUBTFUL.items())
def test_a_kill_inside_the_hand_over_is_known_as_doubt(place: Any, point: str, copies: int) -> None:
    """P1: the entry is in the hand-over; after its deadline the next task finds the doubt and sends nothing."""
    site, alias = place
    order = next(orders)
    assert kill(site, alias, order, point) == "sending"
    value, killed, entry = site.ask(questions.run_after, "killed", alias, "confirm", order)
    assert (value[:2], killed, entry) == (["FAILED", "DeliveryInDoubt"], DEAD[alias], "in_doubt")
    assert site.copies() == copies


def test_an_opaque_body_that_is_killed_is_in_doubt(place: Any) -> None:
    """Nobody can know what such a body did."""
    site, alias = place
    order = next(orders)
    assert kill(site, alias, order, "opaque-body", "opaque") == "sending"
    value, _, entry = site.ask(questions.run_after, "killed", alias, "opaque", order)
    assert (value[:2], entry) == (["FAILED", "DeliveryInDoubt"], "in_doubt")
