"""Deliveries that repeat and race, in every place of the matrix: one copy each, and an answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import questions
from tests.matrix import questions as matrix_questions
from tests.matrix.bed import VISIBILITY_TIMEOUT, Bed
from tests.matrix.steps import idle, result, subjects
from tests.support.tiers import sized

ROUNDS = sized(test=30, all=100)


@pytest.fixture
def barrier(bed: Bed) -> Iterator[Path]:
    """Tasks wait here until two of them claim the same key."""
    folder = bed.directory / "barrier"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder.rename(bed.directory / "passed"))  # by this name, no task that comes late finds it


def test_the_same_message_twice(bed: Bed, barrier: Path) -> None:
    """P1, P4: two deliveries of one task id claim at the same moment; one mail, one result."""
    orders = [bed.order() for _ in range(5)]
    values = bed.shop.ask(matrix_questions.run_twice_under_one_id, orders)
    assert values == [{"order": order, "by": f"twice-{order}"} for order in orders]
    idle(bed)
    assert subjects(bed) == {str(order): 1 for order in orders}, bed.shop.logs()


def test_two_tasks_race_for_one_key_again_and_again(bed: Bed, barrier: Path) -> None:
    """P1, P3: exactly one send each, and the loser gets the winner's result."""
    orders = [bed.order() for _ in range(ROUNDS)]
    values = bed.shop.ask(matrix_questions.run_pairs, orders, timeout=150)
    assert [one["order"] for one, _ in values] == orders
    assert all(one == other for one, other in values)
    assert subjects(bed) == {str(order): 1 for order in orders}
    assert sum(len(list(place.iterdir())) == 2 for place in barrier.iterdir()) == ROUNDS


@pytest.mark.only(brokers=["redis"])
def test_longer_than_the_visibility_timeout(bed: Bed) -> None:
    """A body that takes longer, and a message that waits longer, are delivered again while they are at it.

    Of a body's runs the first that is ready sends; of a message's copies, all due at once, one does.
    """
    slow, late = bed.order(), bed.order()
    bed.shop.ask(questions.publish, "overtaken", slow, task_id=f"slow-{slow}")
    bed.shop.ask(questions.publish, "confirm", late, task_id=f"late-{late}", countdown=VISIBILITY_TIMEOUT + 3)
    assert result(bed, f"slow-{slow}") == "sent"
    assert result(bed, f"late-{late}") == {"order": late, "by": f"late-{late}"}
    idle(bed)
    assert subjects(bed) == {str(slow): 1, str(late): 1}
    assert sum(f"overtaken {slow}" in line for line in bed.shop.bodies()) >= 2, "it was delivered again"


@pytest.mark.only(brokers=["redis"])
def test_waiting_duplicates_do_not_multiply(bed: Bed) -> None:
    """Another task holds the claim for longer than the broker waits: each duplicate stays one message."""
    order, lease = bed.order(), VISIBILITY_TIMEOUT + 3
    duplicates = [f"duplicate-{n}-{order}" for n in range(3)]
    bed.shop.ask(matrix_questions.publish_behind_a_claim, order, lease, duplicates)
    values = [result(bed, task_id) for task_id in duplicates]
    assert values == [values[0]] * 3
    assert subjects(bed) == {str(order): 1}
    log = "".join(worker.logs() for worker in bed.workers)
    for task_id in duplicates:
        # 1 + 2 + 2.5 + 2.5 + …: half the visibility timeout at the most, and one message at a time.
        assert 3 <= log.count(f"{task_id}] comes back") <= lease / (VISIBILITY_TIMEOUT / 2) + 5
