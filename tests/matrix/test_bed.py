"""The bed itself, in every combination: what the scenarios rely on."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from tests.acceptance import questions
from tests.matrix import MATRIX, scope
from tests.matrix import questions as matrix_questions
from tests.matrix.bed import Bed
from tests.support.matrix.containers import WorkerContainer
from tests.support.processes import left_running
from tests.support.servers import Redis
from tests.support.shop import Shop, sqlite
from tests.support.worker import environment, wait_for


def test_a_mail_is_sent_once_and_its_duplicate_replayed(bed: Bed, celery_setup: CeleryTestSetup) -> None:
    """pytest-celery's own setup is ready, and both ways to publish reach the workers."""
    assert celery_setup is bed.setup
    assert celery_setup.ready(control=True)
    assert len(celery_setup) == 4
    order = bed.order()
    first = bed.shop.ask(questions.run, "confirm", order)
    again = celery_setup.app.send_task("tests.acceptance.app.confirm", (order,)).get(timeout=30)
    assert again == first
    assert bed.shop.copies() == 1
    assert len(bed.shop.bodies()) == 1


@pytest.mark.full
def test_a_worker_is_killed_and_restarted(bed: Bed) -> None:
    """A killed worker takes its pool with it, and a warm restart logs its way down and up again."""
    worker, other = bed.workers
    group = {worker.pid, *worker.children()}
    assert len(group) == (3 if bed.pool == "prefork" else 1)
    worker.kill()
    assert worker.container.status == "exited"
    wait_for(lambda: not group & set(left_running(bed.directory)), 5)
    mark = worker.mark()
    worker.restart()
    worker.wait_for_log(" ready.", since=mark)
    mark = other.mark()
    other.restart()
    other.wait_for_log("Warm shutdown", since=mark)
    other.wait_for_log(" ready.", since=mark)
    other.assert_log_does_not_exist("no such line", timeout=0.1)
    assert other.get_running_processes_info(["pid"])[0] == {"pid": other.pid}


@pytest.mark.full
def test_a_message_survives_an_outage_of_the_broker(bed: Bed) -> None:
    """Published while no worker runs, kept over a kill of the broker, and done once the workers are back."""
    for worker in bed.workers:
        worker.stop()
    order = bed.order()
    bed.shop.ask(questions.publish, "confirm", order, task_id=f"kept-{order}")
    bed.broker.stop()
    assert bed.broker.container.status == "exited"
    bed.broker.start()
    for worker in bed.workers:
        worker.start()
    value = bed.shop.ask(questions.wait_for_result, f"kept-{order}")
    assert value == {"order": order, "by": f"kept-{order}"}
    assert bed.shop.copies() == 1


@pytest.mark.full
def test_the_ledger_survives_its_outage(bed: Bed) -> None:
    """What was sent before is still known after it."""
    order = bed.order()
    first = bed.shop.ask(questions.run, "confirm", order)
    bed.ledger.stop()
    assert not bed.ledger.running()
    bed.ledger.start()
    assert bed.shop.ask(questions.run, "confirm", order) == first
    assert bed.shop.copies() == 1


@pytest.mark.only(brokers=["redis"], ledgers=["sqlite"])
def test_the_console_dies_alone(bed: Bed) -> None:
    """A publisher that crashes is followed by a new one; an error of a question is told, with its traceback."""
    bed.shop.ask(matrix_questions.die, dies=True)
    assert bed.shop.ask(matrix_questions.print_and_answer, "alive") == "alive"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        bed.shop.ask(matrix_questions.divide, 1, by=0)
    with pytest.raises(AssertionError, match="no answer within"):
        bed.shop.ask(matrix_questions.sleep, 9, timeout=0.2)
    assert bed.shop.ask(matrix_questions.print_and_answer, 1) == 1


@pytest.mark.full
@pytest.mark.only(brokers=["redis"], ledgers=["sqlite"])
def test_what_a_test_configures_ends_with_it(bed: Bed) -> None:
    """Transport options and settings reach the workers' project."""
    before = bed.shop.ask(matrix_questions.read_configuration)
    given = dict(bed.project)
    bed.configure({"visibility_timeout": 77}, task_time_limit=78)
    assert bed.shop.ask(matrix_questions.read_configuration) == [77, 78] != before
    assert bed.shop.ask(questions.run, "confirm", bed.order())
    bed.project.update(given)
    bed.shop.stop()
    bed.renew()
    assert bed.shop.ask(matrix_questions.read_configuration) == before


def test_the_matrix_is_complete() -> None:
    """Two brokers, four ledgers, four pools, and each test's place can be told from its id."""
    assert len(MATRIX) == len(set(MATRIX)) == 32
    assert str(MATRIX[4]) == "redis-postgres-prefork"
    assert scope("tests/matrix/test_bed.py::test_this[redis-postgres-prefork]") == "redis-postgres-prefork"
    assert scope("tests/matrix/test_bed.py::test_this[7-rabbitmq-redis-solo]") == "rabbitmq-redis-solo"
    assert scope("tests/ledger/test_that.py::test_that[redis-postgres-prefork]") is None


@pytest.mark.process
def test_nothing_is_left_running(tmp_path: Any) -> None:
    """Also of a worker whose main process is killed alone, and of a console."""
    with Redis() as broker:
        shared = environment(tmp_path, broker.url, sqlite(tmp_path), 1)
        worker = WorkerContainer("worker1", tmp_path, shared, "celery", "-c", "2")
        console = Shop(tmp_path, None, shared)  # type: ignore[arg-type]
        console.start()
        worker.start()
        worker.ready()
        console.greet()
        assert len(left_running(tmp_path)) == 4
        os.kill(worker.part.pid or 0, signal.SIGKILL)
        wait_for(lambda: worker.status == "exited")
        worker.reload()
        wait_for(lambda: len(left_running(tmp_path)) == 1, 5)
        worker.teardown()
        console.stop()
        wait_for(lambda: not left_running(tmp_path), 5)
