"""What time does to a job, in a real worker: time limits, schedules, repetitions, and ids that come again."""

from __future__ import annotations

import pytest

from tests.support.rq import RQShop
from tests.support.worker import wait_for

# -- time limits -----------------------------------------------------------------------------------------------


def test_a_job_timeout_before_the_hand_over(shop: RQShop, order: int) -> None:
    """P2: definite; RQ's retry runs the body again at once and sends."""
    values = shop.ask(f"""
job = emails.enqueue(dawdling, {order}, 30, job_timeout=1)
first = [outcome(job), status_of(dawdling, {order})]
again = emails.enqueue(dawdling, {order} + 1_000_000, 30, job_timeout=3, retry=Retry(1))
answer([first, outcome(again), status_of(dawdling, {order} + 1_000_000)])
""")
    assert values == [[["failed", "JobTimeoutException"], "failed"], ["finished", "sent"], "sent"]
    assert shop.copies() == 1


def test_a_job_timeout_inside_the_hand_over(shop: RQShop, order: int) -> None:
    """P1: the payload is out and its reply has not come: in doubt, and RQ's retry may not send."""
    before = shop.server.count("dot")
    shop.server.hold("dot")
    shop.ask(f"keep['job'] = emails.enqueue(confirm, {order}, job_timeout=2, retry=Retry(2))")
    shop.server.reached("dot", before + 1)
    answer = shop.ask(f"answer([outcome(keep['job']), status_of(confirm, {order})])")
    shop.server.release("dot")
    assert answer == [["failed", "DeliveryInDoubt"], "in_doubt"]
    wait_for(lambda: shop.copies() == 1)
    assert len(shop.bodies()) == 1


def test_a_job_timeout_before_the_payload_is_released(shop: RQShop, order: int) -> None:
    """P2: the mail server has not been given anything, so RQ's retry sends."""
    before = shop.server.count("data")
    shop.server.hold("data")
    shop.ask(f"keep['job'] = emails.enqueue(confirm, {order}, job_timeout=2, retry=Retry(2))")
    shop.server.reached("data", before + 2)
    shop.server.release("data")
    answer = shop.ask(f"answer([outcome(keep['job'])[0], status_of(confirm, {order})])")
    assert answer == ["finished", "sent"]
    assert shop.copies() == 1


def test_a_job_timeout_in_an_opaque_body_is_in_doubt(shop: RQShop, order: int) -> None:
    """Nobody can know what such a body had done by then."""
    assert shop.ask(f"""
job = emails.enqueue(opaque, {order}, 30, job_timeout=1, retry=Retry(2))
answer([outcome(job), status_of(opaque, {order})])
""") == [["failed", "DeliveryInDoubt"], "in_doubt"]
    assert len(shop.bodies()) == 1


# -- later, and repeatedly ------------------------------------------------------------------------------------


def test_scheduled_jobs_and_a_duplicate_at_once(shop: RQShop, order: int) -> None:
    """``enqueue_in`` and ``enqueue_at``: the key is the event's, whenever a job runs."""
    values = shop.ask(f"""
from datetime import datetime, timezone
jobs = [emails.enqueue_in(timedelta(seconds=1), confirm, {order}),
        emails.enqueue_at(datetime.now(timezone.utc) + timedelta(seconds=1), confirm, {order}),
        emails.enqueue(confirm, {order})]
answer([outcome(job) for job in jobs])
""")
    assert values == [values[0]] * 3
    assert values[0][0] == "finished"
    assert shop.copies() == 1


@pytest.mark.parametrize(("function", "copies"), [("confirm", 1), ("reminder", 3)])
def test_repeated_jobs(shop: RQShop, order: int, function: str, copies: int) -> None:
    """Each repetition is an intention: one mail if there is no window, one each after it has passed."""
    shop.ask(f"""
job = emails.enqueue({function}, {order}, repeat=Repeat(times=2, interval=2))
repeated(job)
""")
    assert len(shop.bodies()) == copies
    assert shop.copies() == copies


def test_a_repetition_that_is_killed_goes_on(shop: RQShop, order: int) -> None:
    """P4: its own redelivery is the same intention, also where a window has passed meanwhile."""
    shop.crash_at("after-complete")
    shop.ask(f"""
job = emails.enqueue(reminder, {order}, repeat=Repeat(times=1, interval=2), retry=Retry(3, interval=2))
repeated(job)
""")
    shop.crashed()
    assert len(shop.bodies()) == 2
    assert shop.copies() == 2


def test_a_job_id_that_is_used_again(shop: RQShop, order: int) -> None:
    """An id says nothing about the event: another order sends, and the same one does after its window."""
    values = shop.ask(f"""
import time
mine = "daily-{order}"
first = outcome(plain.enqueue(reminder, {order}, job_id=mine))
other = outcome(plain.enqueue(reminder, {order} + 1_000_000, job_id=mine))
time.sleep(1.2)
answer([first, other, outcome(plain.enqueue(reminder, {order}, job_id=mine))])
""")
    assert values == [["finished", "reminded"]] * 3
    assert shop.copies() == 3


def test_rqs_own_unique_jobs(shop: RQShop, order: int) -> None:
    """RQ refuses a second job while it keeps the first one; the ledger still knows when that is gone."""
    unique, twice, first, second = shop.ask(f"""
import inspect
from rq import exceptions
unique = hasattr(exceptions, "DuplicateJobError")
options = dict(job_id="unique-{order}", **({{"unique": True}} if unique else {{}}))
job = emails.enqueue(confirm, {order}, **options)
try: twice = emails.enqueue(confirm, {order}, **options).id
except Exception as error: twice = type(error).__name__
first = outcome(job)
job.delete()
answer([unique, twice, first, outcome(emails.enqueue(confirm, {order}, **options))])
""")
    assert twice == ("DuplicateJobError" if unique else f"unique-{order}")
    assert first == second
    assert shop.copies() == 1
