"""Whole workers killed or paused, and work-horses killed that have no retries left."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.rq import questions
from tests.rq.app import abandoned
from tests.support.rq import FORKING, SIMPLE, SPAWNING, RQShop, clean, opened

pytestmark = pytest.mark.process

orders = itertools.count(3000)


@pytest.fixture(scope="module")
def bare_process(tmp_path_factory: Any) -> Iterator[RQShop]:
    """A shop whose tests start the workers."""
    with opened(tmp_path_factory.mktemp("rq")) as shop:
        yield shop


@pytest.fixture
def bare(bare_process: RQShop) -> RQShop:
    """The module's shop, emptied, its queue too."""
    # The lock of a scheduler that was killed stays for a minute, and RQ's next one would wait for it.
    bare_process.ask(questions.empty_queue)
    return clean(bare_process)


@contextmanager
def stopped_at_the_mail_server(shop: RQShop, name: str, order: int, **options: Any) -> Iterator[None]:
    """Keep a job as ``name``, wait until it talks to the mail server, and pause its process for the block."""
    before = shop.server.count("mail")
    shop.server.hold("mail")
    shop.ask(questions.keep, name, "confirm", order, **options)
    shop.server.reached("mail", before + 1)
    pid = int(shop.bodies()[-1].split()[-1])
    try:
        os.kill(pid, signal.SIGSTOP)
        shop.server.release("mail")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("point", "expected", "status", "copies"),
    [
        ("after-claim", "finished", "sent", 1),
        ("after-record", "finished", "sent", 1),
        ("after-complete", "finished", "sent", 1),
        ("after-dot", "failed", "in_doubt", 1),
        ("after-write-ahead", "failed", "in_doubt", 0),
    ],
)
def test_a_simple_worker_killed_whole(
    bare: RQShop, point: str, expected: str, status: str, copies: int
) -> None:
    """P1, P2: its job stays STARTED until RQ's maintenance finds it abandoned; another worker goes on."""
    order = next(orders)
    bare.crash_at(point)
    with bare.worker_of("emails", kind=SIMPLE) as first:
        bare.ask(questions.keep, "job", "confirm", order, retry={"max": 1})
        first.process.wait(40)
    bare.crashed()
    assert bare.ask(questions.look_at, "job") == "started"
    bare.ask(abandoned)
    assert bare.ask(questions.look_at, "job") == "queued"
    with bare.worker_of("emails", kind=SIMPLE):
        how, value = bare.ask(questions.wait_for, "job")
        found = bare.ask(questions.find_status, "confirm", order)
    assert (how, found, bare.copies()) == (expected, status, copies)
    assert value == "DeliveryInDoubt" or value["order"] == order


def test_an_abandoned_job_without_retries_is_failed_and_its_key_is_free_later(bare: RQShop) -> None:
    """P2: RQ calls it AbandonedJobError; the entry can be seen, and the same event sends after its lease."""
    order = next(orders)
    bare.crash_at("after-claim")
    with bare.worker_of("emails", kind=SIMPLE) as first:
        bare.ask(questions.keep, "job", "confirm", order)
        first.process.wait(40)
    bare.ask(abandoned)
    status = bare.ask(questions.look_at, "job")
    text = bare.ask(questions.read_error, "job")
    entry = bare.ask(questions.find_status, "confirm", order)
    assert (status, entry) == ("failed", "claimed")
    assert "AbandonedJobError" in text
    with bare.worker_of("emails", kind=SIMPLE):
        outcome, entry = bare.ask(questions.run_and_look, "confirm", order)
    assert (outcome[0], entry, bare.copies()) == ("finished", "sent", 1)


def test_a_killed_work_horse_without_retries(shop: RQShop) -> None:
    """P2: the job is FAILED, the entry can be seen, and the same event sends once its lease is over."""
    order = next(orders)
    shop.crash_at("after-354")
    assert shop.ask(questions.run_and_look, "confirm", order) == [["failed", "Work-horse"], "claimed"]
    shop.crashed()
    assert shop.copies() == 0
    outcome, status = shop.ask(questions.run_and_look, "confirm", order)
    assert (outcome[0], status, shop.copies()) == ("finished", "sent", 1)


@pytest.mark.parametrize(("point", "expected"), [("after-claim", "finished"), ("after-payload", "failed")])
def test_a_spawned_work_horse_that_is_killed(bare: RQShop, point: str, expected: str) -> None:
    """RQ's SpawnWorker starts a new interpreter for each job; the same holds there."""
    order = next(orders)
    bare.crash_at(point)
    with bare.worker_of("emails", "--with-scheduler", kind=SPAWNING):
        (how, value), status = bare.ask(questions.run_and_look, "confirm", order, retry={"max": 1})
    bare.crashed()
    assert how == expected
    assert (value, status, bare.copies()) in (
        ("DeliveryInDoubt", "in_doubt", 0),
        ({"order": order, "by": value.get("by") if isinstance(value, dict) else None}, "sent", 1),
    )


@pytest.mark.parametrize("kind", [FORKING, SIMPLE])
def test_a_paused_process_cannot_send_after_its_lease(bare: RQShop, kind: str) -> None:
    """SIGSTOP in mid-body, another job takes over after the lease and sends; the woken one replays."""
    order = next(orders)
    with bare.worker_of("emails", kind=kind), bare.worker_of("emails", kind=kind):
        with stopped_at_the_mail_server(bare, "paused", order):
            other = bare.ask(questions.keep, "other", "confirm", order)
            how, value = bare.ask(questions.wait_for, "other")
            assert how == "finished"
            assert other == value["by"]
            assert bare.copies() == 1
        assert bare.ask(questions.wait_for, "paused") == ["finished", value]
    assert bare.copies() == 1


def test_a_paused_job_that_was_given_up_and_runs_a_second_time(bare: RQShop) -> None:
    """P1, P4: RQ retries the very job on another worker, which sends at once; the woken first run replays."""
    order = next(orders)
    with bare.worker_of("emails", kind=SIMPLE), bare.worker_of("emails", kind=SIMPLE):
        with stopped_at_the_mail_server(bare, "job", order, retry={"max": 2}):
            how, value = bare.ask(questions.give_up_and_wait_for, "job")
            assert (how, bare.copies()) == ("finished", 1)
        both = f"Successfully completed tests.rq.app.confirm(order={order})"
        bare.said(both, times=2)
        assert f"claim lost (order={order})" in bare.log()
        assert bare.ask(questions.wait_for, "job") == ["finished", value]
        assert bare.ask(questions.count_unfinished) == [0, 0]
    assert bare.copies() == 1
