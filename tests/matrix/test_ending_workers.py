"""Workers that end in the middle of a body, in every place of the matrix: one copy each, and an answer."""

from __future__ import annotations

import psutil
import pytest

from tests.acceptance import questions
from tests.matrix import questions as matrix_questions
from tests.matrix.bed import Bed
from tests.matrix.steps import held, result, subjects
from tests.support.worker import wait_for


def is_gone(pid: int) -> bool:
    """Tell whether the process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.only(pools=["prefork"])
@pytest.mark.parametrize("point", ["after-claim", "after-354", "after-record", "after-complete"])
def test_a_pool_process_is_lost(bed: Bed, point: str) -> None:
    """With acks_late and reject_on_worker_lost it is resumed at once."""
    order = bed.order()
    bed.shop.crash_at(point)
    bed.shop.ask(questions.publish, "confirm", order, task_id=f"lost-{order}")
    assert result(bed, f"lost-{order}") == {"order": order, "by": f"lost-{order}"}
    bed.shop.crashed()
    assert subjects(bed) == {str(order): 1}


@pytest.mark.only(pools=["prefork"])
def test_a_pool_process_is_lost_in_the_hand_over(bed: Bed) -> None:
    """Nobody can know, so nobody sends it again."""
    order = bed.order()
    bed.shop.crash_at("after-250")
    bed.shop.ask(questions.publish, "confirm", order, task_id=f"doubt-{order}")
    assert result(bed, f"doubt-{order}") == "DeliveryInDoubt"
    assert subjects(bed) == {str(order): 1}
    assert bed.shop.ask(questions.find_status, "confirm", order) == "in_doubt"


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGQUIT"])
def test_a_worker_ends_in_the_middle_of_a_body(bed: Bed, how: str) -> None:
    """Killed, warm and cold shutdown: the other worker finishes what this one did not."""
    order = bed.order()
    worker = held(bed, "mail", order, f"ended-{order}")
    worker.kill(how)
    if how == "SIGKILL" or (how == "SIGQUIT" and bed.pool != "threads"):
        worker.ended()  # or the body might be let go, and killed in its hand-over
    bed.server.release("mail")
    task_id = f"ended-{order}"
    if how == "SIGQUIT" and bed.pool in ("solo", "gevent"):
        # Celery cannot end a body there, and gives its message up: the next event is not held up by its claim.
        task_id = f"again-{order}"
        bed.shop.ask(questions.publish, "confirm", order, task_id=task_id)
    assert result(bed, task_id) in [{"order": order, "by": by} for by in {f"ended-{order}", task_id}]
    assert subjects(bed) == {str(order): 1}
    worker.ended()


@pytest.mark.full
@pytest.mark.only(pools=["prefork", "threads"])
def test_a_soft_shutdown(bed: Bed) -> None:
    """A body that ends within ``worker_soft_shutdown_timeout`` does so, and is not delivered again."""
    bed.configure(worker_soft_shutdown_timeout=5)
    order = bed.order()
    worker = held(bed, "mail", order, f"soft-{order}")
    worker.kill("SIGQUIT")
    bed.server.release("mail")
    assert result(bed, f"soft-{order}") == {"order": order, "by": f"soft-{order}"}
    assert subjects(bed) == {str(order): 1}


@pytest.mark.only(pools=["prefork"])
def test_time_limits(bed: Bed) -> None:
    """The soft one is ignored by the body, the hard one kills it: after the lease the key is free again."""
    order = bed.order()
    value, status, _ = bed.shop.ask(questions.run_and_look, "slow", order)
    assert [value, status] == ["TimeLimitExceeded", "claimed"]
    (bed.directory / "fast").touch()
    assert bed.shop.ask(questions.run, "slow", order) == "sent"
    assert subjects(bed) == {str(order): 1}


@pytest.mark.only(pools=["prefork"])
def test_a_revoked_task_blocks_nothing(bed: Bed) -> None:
    """Terminated in its body it leaves a claim that its lease frees; revoked before, it leaves nothing."""
    order, other = bed.order(), bed.order()
    held(bed, "mail", order, f"revoked-{order}")
    bed.shop.ask(matrix_questions.terminate, f"revoked-{order}")
    outcome = result(bed, f"revoked-{order}")
    pid = int(next(line for line in bed.shop.bodies() if line.startswith(f"confirm {order} ")).split()[-1])
    wait_for(lambda: is_gone(pid), 30)  # Celery tells the outcome first, and kills then
    bed.server.release("mail")  # not before: the body might get as far as its hand-over, and be killed there
    assert outcome in ("TaskRevokedError", "WorkerLostError", "Terminated")
    value = bed.shop.ask(questions.run_as, f"next-{order}", "confirm", order)
    assert value == {"order": order, "by": f"next-{order}"}
    told = bed.shop.ask(matrix_questions.publish_revoked, other, f"never-{other}")
    assert told == 2, "or a worker that has not heard of it might run it"
    assert result(bed, f"never-{other}") == "TaskRevokedError"
    assert bed.shop.ask(questions.find_status, "confirm", other) is None
    assert subjects(bed) == {str(order): 1}
