"""Servers and publishers that end, in every place of the matrix: nothing is lost, and nothing sent twice."""

from __future__ import annotations

import pytest

from tests.acceptance import questions
from tests.matrix import questions as matrix_questions
from tests.matrix.bed import Bed
from tests.matrix.steps import held, idle, result, subjects


def test_the_broker_restarts_in_the_middle_of_a_body(bed: Bed) -> None:
    """What could not be acknowledged is delivered again, and found done."""
    order = bed.order()
    held(bed, "mail", order, f"broker-{order}")
    bed.broker.restart()
    bed.server.release("mail")
    assert result(bed, f"broker-{order}") == {"order": order, "by": f"broker-{order}"}
    assert subjects(bed) == {str(order): 1}
    bed.renew()  # after a lost connection Celery takes fewer messages for a while


@pytest.mark.parametrize("step", ["data", "dot"])
def test_the_ledger_restarts_in_a_hand_over(bed: Bed, step: str) -> None:
    """P6: before the write-ahead nothing goes out and the task comes back; after the 250 it insists."""
    order = bed.order()
    worker = held(bed, step, order, f"{step}-{order}")
    mark = worker.mark()
    bed.ledger.stop()
    bed.server.release(step)
    worker.wait_for_log({"data": "comes back", "dot": "trying again"}[step], since=mark)
    assert bed.shop.copies() == (1 if step == "dot" else 0)
    bed.ledger.start()
    assert result(bed, f"{step}-{order}") == {"order": order, "by": f"{step}-{order}"}
    assert subjects(bed) == {str(order): 1}


@pytest.mark.parametrize("publish", ["delay_on_commit", "delay"])
def test_a_publisher_crashes_before_it_commits(bed: Bed, publish: str) -> None:
    """Whether the message got out or not, the same event later makes it exactly one."""
    order = bed.order()
    bed.shop.ask(matrix_questions.die_before_the_commit, order, publish, dies=True)
    assert bed.shop.ask(questions.run, "confirm", order)["order"] == order
    idle(bed)
    assert subjects(bed) == {str(order): 1}
