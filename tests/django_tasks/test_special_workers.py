"""What happens in one kind of place only: forced shutdown, SQLite, jobs at once, a Celery worker beside it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.django_tasks import questions
from tests.django_tasks.site import Site, db_workers, opened
from tests.support.tiers import sized
from tests.support.worker import Worker, wait_for


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Iterator[Site]:
    """A project without workers."""
    # Longer than it takes to tell a worker twice to end while its hand-over is held.
    with opened(tmp_path_factory.mktemp("site"), TEST_SEND_TIMEOUT="15") as site:
        yield site


@pytest.fixture
def site(place: Site) -> Site:
    """The project, its mail server and notes emptied."""
    place.clear()
    return place


@pytest.mark.parametrize(
    ("step", "left", "ends"), [("data", "claimed", "sent"), ("dot", "in_doubt", "in_doubt")]
)
def test_a_worker_that_is_told_twice_to_end(site: Site, step: str, left: str, ends: str) -> None:
    """The second SIGTERM raises `SystemExit` in the body: the task fails, the entry tells how far it got."""
    before = site.mail.count(step)
    site.mail.hold(step)
    with site.working():
        site.ask(questions.keep, "ended", "default", "confirm", step)
        site.mail.reached(step, before + 1)
        process = int(site.bodies()[-1].split()[-1])
        log = site.directory / "db_worker.log"
        for said in ("shutting down gracefully", "terminating current task"):
            count = log.read_text().count(said)
            os.kill(process, signal.SIGTERM)
            wait_for(lambda said=said, count=count: log.read_text().count(said) > count, 30, site.logs)
        ended = site.ask(questions.wait_for, "ended")
        assert ended[:2] == ["FAILED", "SystemExit"]
        assert site.ask(questions.find_status, "confirm", step) == left
        site.mail.release(step)
        answer = site.ask(questions.run_and_look, "confirm", step)
        assert answer == ["SUCCESSFUL" if ends == "sent" else "FAILED", ends]
        wait_for(lambda: site.copies() == 1, 10)  # the server takes the one whose reply nobody waited for


def test_a_task_inside_a_transaction_waits_for_as_long_as_it_takes(site: Site) -> None:
    """One that were enqueued anew would vanish with the rollback."""
    with site.working():
        task = site.ask(questions.keep_behind_a_claim, "waiting", "default", "all_in_one", 1, lease=60)
        site.said(f"[{task}] waits: it cannot be enqueued anew: a transaction is open")
        site.ask(questions.fail_the_claim, "gave up")
        answer = site.ask(questions.wait_for, "waiting")
    assert answer[:2] == ["SUCCESSFUL", "sent"]
    assert site.copies() == 1


@pytest.mark.process
def test_tasks_and_ledger_in_one_sqlite_file(tmp_path: Any) -> None:
    """Two workers at 20 keys asked for three times each; a send inside `atomic` is refused, as with Celery."""
    with opened(tmp_path, on_sqlite=True) as site:
        db_workers(site)
        values, refused = site.ask(questions.run_many, orders=20, times=3)
        assert [value[0] for value in values] == ["SUCCESSFUL"] * 60
        assert values[:20] == values[20:40] == values[40:]
        assert refused[:2] == ["FAILED", "UnsafeTransaction"]
        assert site.copies() == 20


def test_an_rq_queue_that_runs_jobs_at_once(site: Site) -> None:
    """With django-rq's ``ASYNC: False`` a job is part of whoever enqueues it, and is deduplicated as others."""
    results = site.ask(questions.run_at_once)
    assert results[0] == results[1]
    assert [result[:2] for result in results[1:]] == [["SUCCESSFUL", results[0][1]], ["FAILED", "InProgress"]]
    assert "goes on as" not in results[2][2]
    assert site.copies() == 1


def test_celery_and_db_workers_at_the_same_keys(site: Site) -> None:
    """One ledger: keys held by a barrier until both sides claim; one copy each, one value for both."""
    keys = sized(test=60, all=200)
    barrier = site.directory / "barrier"
    barrier.mkdir()
    arguments = ("tests.django_tasks.project", site.environment, site.directory / "celery.log", "-c", "2")
    try:
        with site.working(2), Worker(*arguments, "-n", "both"):
            values = site.ask(questions.run_beside_celery, 1000, 999 + keys, timeout=200)
    finally:
        shutil.rmtree(barrier)
    assert [value[1] for value in values] == ["SUCCESSFUL"] * keys
    assert all(value[0] == value[2] for value in values)
    assert site.copies() == keys
    assert {line.split()[0] for line in site.bodies()} == {"celery", "confirm"}
