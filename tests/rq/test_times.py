"""What time does to a job, in a real worker: time limits, schedules, repetitions, and ids that come again."""

from __future__ import annotations

import pytest

from tests.rq import life_questions, questions
from tests.support.rq import RQShop
from tests.support.worker import wait_for

# -- time limits -----------------------------------------------------------------------------------------------


def test_a_job_timeout_before_the_hand_over(shop: RQShop, order: int) -> None:
    """P2: definite; RQ's retry runs the body again at once and sends."""
    values = [
        shop.ask(questions.run_and_look, "dawdling", order, 30, job_timeout=1),
        *shop.ask(questions.run_and_look, "dawdling", order + 1_000_000, 30, job_timeout=3, retry={"max": 1}),
    ]
    assert values == [[["failed", "JobTimeoutException"], "failed"], ["finished", "sent"], "sent"]
    assert shop.copies() == 1


def test_a_job_timeout_inside_the_hand_over(shop: RQShop, order: int) -> None:
    """P1: the payload is out and its reply has not come: in doubt, and RQ's retry may not send."""
    before = shop.server.count("dot")
    shop.server.hold("dot")
    shop.ask(questions.keep, "job", "confirm", order, job_timeout=2, retry={"max": 2})
    shop.server.reached("dot", before + 1)
    answer = [shop.ask(questions.wait_for, "job"), shop.ask(questions.find_status, "confirm", order)]
    shop.server.release("dot")
    assert answer == [["failed", "DeliveryInDoubt"], "in_doubt"]
    wait_for(lambda: shop.copies() == 1)
    assert len(shop.bodies()) == 1


def test_a_job_timeout_before_the_payload_is_released(shop: RQShop, order: int) -> None:
    """P2: the mail server has not been given anything, so RQ's retry sends."""
    before = shop.server.count("data")
    shop.server.hold("data")
    shop.ask(questions.keep, "job", "confirm", order, job_timeout=2, retry={"max": 2})
    shop.server.reached("data", before + 2)
    shop.server.release("data")
    answer = [shop.ask(questions.wait_for, "job")[0], shop.ask(questions.find_status, "confirm", order)]
    assert answer == ["finished", "sent"]
    assert shop.copies() == 1


def test_a_job_timeout_in_an_opaque_body_is_in_doubt(shop: RQShop, order: int) -> None:
    """Nobody can know what such a body had done by then."""
    assert shop.ask(questions.run_and_look, "opaque", order, 30, job_timeout=1, retry={"max": 2}) == [
        ["failed", "DeliveryInDoubt"],
        "in_doubt",
    ]
    assert len(shop.bodies()) == 1


# -- later, and repeatedly ------------------------------------------------------------------------------------


def test_scheduled_jobs_and_a_duplicate_at_once(shop: RQShop, order: int) -> None:
    """``enqueue_in`` and ``enqueue_at``: the key is the event's, whenever a job runs."""
    values = shop.ask(life_questions.enqueue_for_later, order)
    assert values == [values[0]] * 3
    assert values[0][0] == "finished"
    assert shop.copies() == 1


@pytest.mark.parametrize(("function", "copies"), [("confirm", 1), ("reminder", 3)])
def test_repeated_jobs(shop: RQShop, order: int, function: str, copies: int) -> None:
    """Each repetition is an intention: one mail if there is no window, one each after it has passed."""
    shop.ask(questions.repeat, function, order, repeat={"times": 2, "interval": 2})
    assert len(shop.bodies()) == copies
    assert shop.copies() == copies


def test_a_repetition_that_is_killed_goes_on(shop: RQShop, order: int) -> None:
    """P4: its own redelivery is the same intention, also where a window has passed meanwhile."""
    shop.crash_at("after-complete")
    shop.ask(
        questions.repeat, "reminder", order, repeat={"times": 1, "interval": 2}, retry={"max": 3, "interval": 2}
    )
    shop.crashed()
    assert len(shop.bodies()) == 2
    assert shop.copies() == 2


def test_a_job_id_that_is_used_again(shop: RQShop, order: int) -> None:
    """An id says nothing about the event: another order sends, and the same one does after its window."""
    values = shop.ask(life_questions.use_one_id_again, order, order + 1_000_000)
    assert values == [["finished", "reminded"]] * 3
    assert shop.copies() == 3


def test_rqs_own_unique_jobs(shop: RQShop, order: int) -> None:
    """RQ refuses a second job while it keeps the first one; the ledger still knows when that is gone."""
    unique, twice, first, second = shop.ask(life_questions.enqueue_unique, order)
    assert twice == ("DuplicateJobError" if unique else f"unique-{order}")
    assert first == second
    assert shop.copies() == 1
