"""What happens to tasks in production, in every place of the matrix: one copy each, and an answer."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.matrix.bed import VISIBILITY_TIMEOUT, Bed
from tests.support.matrix.nodes import LocalWorker
from tests.support.worker import wait_for

ROUNDS = 100


def subjects(bed: Bed) -> Counter[str]:
    """Return how many copies of each order's mail the server took."""
    return Counter(received.data.decode().split("Order ")[1].split()[0] for received in bed.server.accepted)


def is_gone(pid: int) -> bool:
    """Tell whether the process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def held(bed: Bed, step: str, publish: str) -> LocalWorker:
    """Hold the mail server at ``step``, publish, and return the worker whose body has got there."""
    before = bed.server.count(step)
    bed.server.hold(step)
    bed.shop.ask(publish)
    bed.server.reached(step, before + 1)
    pid = int(bed.shop.bodies()[-1].split()[-1])
    return next(worker for worker in bed.workers if pid in {worker.pid, *worker.children()})


def result(bed: Bed, task_id: str, timeout: float = 60) -> Any:
    """Return the task's result, or the name of its error."""
    return bed.shop.ask(f"""
try: answer(app.AsyncResult({task_id!r}).get(timeout={timeout}))
except Exception as error: answer(type(error).__name__)
""")


@pytest.fixture
def barrier(bed: Bed) -> Iterator[Path]:
    """Tasks wait here until two of them claim the same key."""
    folder = bed.directory / "barrier"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


# -- deliveries and races --------------------------------------------------------------------------------


def test_the_same_message_twice(bed: Bed, barrier: Path) -> None:
    """P1, P4: two deliveries of one task id claim at the same moment; one mail, one result."""
    orders = [bed.order() for _ in range(5)]
    values = bed.shop.ask(f"""
for order in {orders}:
    for _ in range(2): confirm.apply_async((order,), task_id=f"twice-{{order}}")
answer([app.AsyncResult(f"twice-{{order}}").get(timeout=60) for order in {orders}])
""")
    assert values == [{"order": order, "by": f"twice-{order}"} for order in orders]
    idle(bed)
    assert subjects(bed) == {str(order): 1 for order in orders}, bed.shop.logs()


def test_two_tasks_race_for_one_key_a_hundred_times(bed: Bed, barrier: Path) -> None:
    """P1, P3: exactly one send each, and the loser gets the winner's result."""
    orders = [bed.order() for _ in range(ROUNDS)]
    values = bed.shop.ask(
        f"""
pairs = [[confirm.apply_async((order,), task_id=f"{{side}}-{{order}}") for side in "ab"] for order in {orders}]
answer([[one.get(timeout=100), other.get(timeout=100)] for one, other in pairs])
""",
        timeout=150,
    )
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
    bed.shop.ask(f"""
dawdling.apply_async(({slow}, {VISIBILITY_TIMEOUT + 4}), task_id='slow-{slow}')
confirm.apply_async(({late},), task_id='late-{late}', countdown={VISIBILITY_TIMEOUT + 3})
""")
    assert result(bed, f"slow-{slow}") == "sent"
    assert result(bed, f"late-{late}") == {"order": late, "by": f"late-{late}"}
    idle(bed)
    assert subjects(bed) == {str(slow): 1, str(late): 1}
    assert sum(f"dawdling {slow}" in line for line in bed.shop.bodies()) >= 2, "it was delivered again"


@pytest.mark.only(brokers=["redis"])
def test_waiting_duplicates_do_not_multiply(bed: Bed) -> None:
    """Another task holds the claim for longer than the broker waits: each duplicate stays one message."""
    order, lease = bed.order(), VISIBILITY_TIMEOUT + 3
    bed.shop.ask(f"""
from tests.support.seed import Seed
Seed(confirm, {order}, lease={lease}).claimed()
for n in range(3): confirm.apply_async(({order},), task_id=f"duplicate-{{n}}-{order}")
""")
    values = [result(bed, f"duplicate-{n}-{order}") for n in range(3)]
    assert values == [values[0]] * 3
    assert subjects(bed) == {str(order): 1}
    log = "".join(worker.logs() for worker in bed.workers)
    for n in range(3):
        # 1 + 2 + 2.5 + 2.5 + …: half the visibility timeout at the most, and one message at a time.
        assert 3 <= log.count(f"duplicate-{n}-{order}] comes back") <= lease / (VISIBILITY_TIMEOUT / 2) + 5


# -- workers that end ------------------------------------------------------------------------------------


@pytest.mark.only(pools=["prefork"])
@pytest.mark.parametrize("point", ["after-claim", "after-354", "after-record", "after-complete"])
def test_a_pool_process_is_lost(bed: Bed, point: str) -> None:
    """With acks_late and reject_on_worker_lost it is resumed at once."""
    order = bed.order()
    bed.shop.crash_at(point)
    bed.shop.ask(f"confirm.apply_async(({order},), task_id='lost-{order}')")
    assert result(bed, f"lost-{order}") == {"order": order, "by": f"lost-{order}"}
    bed.shop.crashed()
    assert subjects(bed) == {str(order): 1}


@pytest.mark.only(pools=["prefork"])
def test_a_pool_process_is_lost_in_the_hand_over(bed: Bed) -> None:
    """Nobody can know, so nobody sends it again."""
    order = bed.order()
    bed.shop.crash_at("after-250")
    bed.shop.ask(f"confirm.apply_async(({order},), task_id='doubt-{order}')")
    assert result(bed, f"doubt-{order}") == "DeliveryInDoubt"
    assert subjects(bed) == {str(order): 1}
    assert bed.shop.ask(f"answer(confirm.entry_for({order}).status)") == "in_doubt"


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGQUIT"])
def test_a_worker_ends_in_the_middle_of_a_body(bed: Bed, how: str) -> None:
    """Killed, warm and cold shutdown: the other worker finishes what this one did not."""
    order = bed.order()
    worker = held(bed, "mail", f"confirm.apply_async(({order},), task_id='ended-{order}')")
    worker.kill(how)
    if how == "SIGKILL" or (how == "SIGQUIT" and bed.pool != "threads"):
        worker.ended()  # or the body might be let go, and killed in its hand-over
    bed.server.release("mail")
    task_id = f"ended-{order}"
    if how == "SIGQUIT" and bed.pool in ("solo", "gevent"):
        # Celery cannot end a body there, and gives its message up: the next event is not held up by its claim.
        task_id = f"again-{order}"
        bed.shop.ask(f"confirm.apply_async(({order},), task_id={task_id!r})")
    assert result(bed, task_id)["order"] == order
    assert subjects(bed) == {str(order): 1}
    worker.ended()


@pytest.mark.only(pools=["prefork", "threads"])
def test_a_soft_shutdown(bed: Bed) -> None:
    """A body that ends within ``worker_soft_shutdown_timeout`` does so, and is not delivered again."""
    bed.configure(worker_soft_shutdown_timeout=5)
    order = bed.order()
    worker = held(bed, "mail", f"confirm.apply_async(({order},), task_id='soft-{order}')")
    worker.kill("SIGQUIT")
    bed.server.release("mail")
    assert result(bed, f"soft-{order}") == {"order": order, "by": f"soft-{order}"}
    assert subjects(bed) == {str(order): 1}


@pytest.mark.only(pools=["prefork"])
def test_time_limits(bed: Bed) -> None:
    """The soft one is ignored by the body, the hard one kills it: after the lease the key is free again."""
    order = bed.order()
    outcome = bed.shop.ask(f"""
result = slow.delay({order})
try: result.get(timeout=60)
except Exception as error: answer([type(error).__name__, slow.entry_for({order}).status])
""")
    assert outcome == ["TimeLimitExceeded", "claimed"]
    (bed.directory / "fast").touch()
    assert bed.shop.ask(f"answer(slow.delay({order}).get(timeout=60))") == "sent"
    assert subjects(bed) == {str(order): 1}


@pytest.mark.only(pools=["prefork"])
def test_a_revoked_task_blocks_nothing(bed: Bed) -> None:
    """Terminated in its body it leaves a claim that its lease frees; revoked before, it leaves nothing."""
    order, other = bed.order(), bed.order()
    held(bed, "mail", f"confirm.apply_async(({order},), task_id='revoked-{order}')")
    bed.shop.ask(f"app.control.revoke('revoked-{order}', terminate=True, signal='SIGKILL')")
    outcome = result(bed, f"revoked-{order}")
    pid = int(next(line for line in bed.shop.bodies() if line.startswith(f"confirm {order} ")).split()[-1])
    wait_for(lambda: is_gone(pid), 30)  # Celery tells the outcome first, and kills then
    bed.server.release("mail")  # not before: the body might get as far as its hand-over, and be killed there
    assert outcome in ("TaskRevokedError", "WorkerLostError", "Terminated")
    value = bed.shop.ask(f"answer(confirm.apply_async(({order},), task_id='next-{order}').get(timeout=60))")
    assert value == {"order": order, "by": f"next-{order}"}
    bed.shop.ask(f"""
import time
app.control.revoke('never-{other}', reply=True, timeout=1)
confirm.apply_async(({other},), task_id='never-{other}')
""")
    assert result(bed, f"never-{other}") == "TaskRevokedError"
    assert bed.shop.ask(f"answer(confirm.entry_for({other}))") is None
    assert subjects(bed) == {str(order): 1}


# -- servers that end ------------------------------------------------------------------------------------


def test_the_broker_restarts_in_the_middle_of_a_body(bed: Bed) -> None:
    """What could not be acknowledged is delivered again, and found done."""
    order = bed.order()
    held(bed, "mail", f"confirm.apply_async(({order},), task_id='broker-{order}')")
    bed.broker.restart()
    bed.server.release("mail")
    assert result(bed, f"broker-{order}") == {"order": order, "by": f"broker-{order}"}
    assert subjects(bed) == {str(order): 1}
    bed.renew()  # after a lost connection Celery takes fewer messages for a while


@pytest.mark.parametrize("step", ["data", "dot"])
def test_the_ledger_restarts_in_a_hand_over(bed: Bed, step: str) -> None:
    """P6: before the write-ahead nothing goes out and the task comes back; after the 250 it insists."""
    order = bed.order()
    worker = held(bed, step, f"confirm.apply_async(({order},), task_id='{step}-{order}')")
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
    bed.shop.ask(
        f"""
with transaction.atomic():
    confirm.{publish}({order})
    os._exit(1)
""",
        dies=True,
    )
    assert bed.shop.ask(f"answer(confirm.delay({order}).get(timeout=60))")["order"] == order
    idle(bed)
    assert subjects(bed) == {str(order): 1}


# -- canvas ----------------------------------------------------------------------------------------------


def test_canvas_with_duplicates(bed: Bed) -> None:
    """P3: chain, group, chord, link and replace go on as if each duplicate had done the work."""
    first, second, third = (bed.order() for _ in range(3))
    chained, grouped, chorded, replaced = bed.shop.ask(f"""
from celery import chain, chord, group
confirm.delay({first}).get(timeout=60)
results = [
    chain(confirm.si({first}), collect.s()).delay(),
    group(confirm.si({first}), confirm.si({second}), confirm.si({second})).delay(),
    chord([confirm.si({second}), confirm.si({first})], collect.s()).delay(),
    replacing.delay({third}),
]
confirm.apply_async(({first},), link=noted.si())
answer([result.get(timeout=60) for result in results])
""")
    assert chained["order"] == first
    assert [value["order"] for value in grouped] == [first, second, second]
    assert grouped[1] == grouped[2]
    assert [value["order"] for value in chorded] == [second, first]
    assert replaced["order"] == third
    wait_for(lambda: any(line.startswith("noted") for line in bed.shop.bodies()))
    assert subjects(bed) == {str(order): 1 for order in (first, second, third)}


def test_an_errback_is_called_and_the_mail_stays_sent(bed: Bed) -> None:
    """A body that fails after its send fails; called again it does not send again."""
    order = bed.order()
    for n in (1, 2):
        bed.shop.ask(f"failing.apply_async(({order},), task_id='failing-{n}-{order}', link_error=noted.si())")
        assert result(bed, f"failing-{n}-{order}") == "ValueError"
        wait_for(lambda n=n: sum(line.startswith("noted") for line in bed.shop.bodies()) >= n)
    assert subjects(bed) == {str(order): 1}


def idle(bed: Bed) -> None:
    """Give what may still be under way the time to do harm."""
    time.sleep(1.5)
