"""Django tasks in real workers: the database backend's db_worker and the RQ backend's rqworker."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.django_tasks import questions
from tests.django_tasks.site import Site
from tests.support.mailserver import DROP_AFTER_ACCEPT

orders = itertools.count(1)


class Desk:
    """Enqueues on one backend and tells what became of it."""

    def __init__(self, site: Site, alias: str) -> None:
        self.site, self.alias, self.order = site, alias, next(orders)

    def ask(self, question: Callable[..., Any], *args: Any) -> Any:
        """Have ``question`` called in the project, with the backend's alias."""
        return self.site.ask(question, self.alias, *args)

    def behind(self, lease: float) -> str:
        """Let somebody else hold the claim, enqueue a task that has to wait for it, and return its id."""
        return str(
            self.site.ask(questions.keep_behind_a_claim, "waiting", self.alias, "confirm", self.order, lease)
        )

    def waits(self, task: str) -> str:
        """Return what the worker's log says of a task that waits."""
        return f"[{task}] comes back" if self.alias == "default" else f"Job {task}: scheduled for retry"


@pytest.fixture(params=["default", "rq"], ids=["db_worker", "rqworker"])
def desk(request: Any, site: Site) -> Desk:
    """A desk for one test on one backend, with an order of its own."""
    site.clear()
    return Desk(site, request.param)


def test_duplicates_get_the_first_ones_result(desk: Desk) -> None:
    """P1, P3: positional or keyword, another priority, queue or time: one mail, one return value."""
    first, *others = desk.ask(questions.call_in_all_ways, desk.order)
    assert first[0] == "SUCCESSFUL"
    assert first[1]["order"] == desk.order
    assert others == [first] * 4
    assert (desk.site.copies(), len(desk.site.bodies())) == (1, 1)


def test_context_and_coroutines(desk: Desk) -> None:
    """Both kinds of function, twice each: the context changes neither key nor content."""
    contexts, awaited, keys = desk.ask(questions.run_context_and_coroutines, desk.order)
    assert contexts[0] == contexts[1]
    assert contexts[0][0] == "SUCCESSFUL"
    assert awaited == [["SUCCESSFUL", f"awaited {desk.order}"]] * 2
    assert keys == [True, True]
    assert desk.site.copies() == 2


def test_an_error_is_final_and_the_next_task_goes_on(desk: Desk) -> None:
    """FAILED, and free: the next task runs the body again, which does not send again."""
    first, status, second = desk.ask(questions.fail_and_go_on, desk.order)
    assert first[:2] == ["FAILED", "ValueError"]
    assert (status, second) == ("failed", ["SUCCESSFUL", "sent"])
    assert desk.site.copies() == 1


def test_a_rollback_of_the_body_undoes_no_record(desk: Desk) -> None:
    """P5: sent inside `atomic`, rolled back; the next task does not send again."""
    first, second, attempts = desk.ask(questions.roll_back_the_body, desk.order)
    assert first[:2] == ["FAILED", "ValueError"]
    assert (second, attempts) == (["SUCCESSFUL", "committed"], 1)
    assert desk.site.copies() == 1


def test_a_lost_reply_is_doubt(desk: Desk) -> None:
    """P1: the task fails with `DeliveryInDoubt`, and so does the next one; operations see the entry."""
    desk.site.mail.script["dot"] = DROP_AFTER_ACCEPT
    results = desk.ask(questions.run_twice_and_look, desk.order)
    assert [result[:2] for result in results[:2]] == [["FAILED", "DeliveryInDoubt"]] * 2
    assert results[2] == "in_doubt"
    assert desk.site.copies() == 1


def test_a_call_without_its_key(desk: Desk) -> None:
    """`enqueue` raises; the task, which is in the queue by then, fails with the same words."""
    said, failed = desk.ask(questions.call_without_key)
    assert said.startswith("tests.django_tasks.project.confirm: key field 'order' is None")
    assert failed[:2] == ["FAILED", "KeyFieldError"]
    assert said in failed[2]
    assert desk.site.copies() == 0


def test_a_claim_held_by_somebody_else_is_waited_for(desk: Desk) -> None:
    """The task comes back until the other one is done, and then returns what that returned."""
    desk.site.said(desk.waits(desk.behind(lease=30)))
    desk.site.ask(questions.complete_the_claim, "theirs")
    assert desk.site.ask(questions.wait_for, "waiting") == [
        "SUCCESSFUL",
        "theirs",
    ]
    assert desk.site.copies() == 0


def test_a_longer_wait_than_a_worker_has_patience_for(desk: Desk) -> None:
    """Nothing is lost: db_worker's task fails and names the one that goes on; RQ's own job comes back."""
    task = desk.behind(lease=60)
    if desk.alias == "default":
        failed = desk.site.ask(questions.wait_for, "waiting")
        assert failed[:2] == ["FAILED", "InProgress"]
        task = failed[2].rpartition("; this goes on as task ")[2]
        desk.site.ask(questions.keep_other, "waiting", task)
    else:
        desk.site.said(desk.waits(task), times=2)
    desk.site.ask(questions.fail_the_claim, "gave up")
    status, value = desk.site.ask(questions.wait_for, "waiting")
    assert (status, value["order"]) == ("SUCCESSFUL", desk.order)
    assert desk.site.ask(questions.find_owner, desk.order) == task
    assert desk.site.copies() == 1


def test_enqueued_inside_a_transaction_that_rolls_back(desk: Desk) -> None:
    """The database's task goes with it; RQ's is in Redis at once, so there `on_commit` is the way."""
    rows = desk.ask(questions.roll_back_the_callers, desk.order)
    assert rows == ["SUCCESSFUL" if desk.alias == "rq" else None, None, "SUCCESSFUL"]
    assert desk.site.copies() == (1 if desk.alias == "default" else 2)


def test_the_immediate_backend_inside_a_transaction(desk: Desk) -> None:
    """On a server the record stays when the caller rolls back: one copy, even so."""
    results = desk.site.ask(questions.roll_back_the_immediate_one, desk.order)
    assert results[0] == results[1]
    assert results[0][0] == "SUCCESSFUL"
    assert desk.site.copies() == 1


def test_a_ledger_that_is_down_sends_nothing_and_loses_nothing(desk: Desk) -> None:
    """P6: stopped right before the write-ahead, longer than a worker has patience, and back: sent once."""
    site = desk.site
    before = site.mail.count("data")
    site.mail.hold("data")
    task = site.ask(questions.keep, "patient", desk.alias, "confirm", desk.order)
    site.mail.reached("data", before + 1)
    site.database.stop()
    site.mail.release("data")
    says = {"default": f"[{task}] waits: it cannot be enqueued anew", "rq": desk.waits(task)}
    site.said(says[desk.alias])
    assert site.copies() == 0
    site.database.start()
    # Back just as db_worker was about to enqueue the task anew, it has done that.
    last, status, value = site.ask(questions.wait_for_last, "patient")
    assert (status, value["order"]) == ("SUCCESSFUL", desk.order)
    assert site.ask(questions.find_owner, desk.order) == last
    assert [text for text, _ in site.mails()] == [f"Order {desk.order}"], site.logs()


def test_addresses_stay_out_of_what_the_ledger_writes(desk: Desk) -> None:
    """P7: rows and log lines know the mask alone. RQ logs a job's arguments by itself, db_worker does not."""
    rows = desk.ask(questions.read_what_is_stored, desk.order, "secret.person@example.com")
    assert "s***@example.com" in str(rows)
    assert "secret.person@" not in str(rows)
    log = desk.site.directory / ("db_worker.log" if desk.alias == "default" else "rqworker.log")
    lines = [line for line in log.read_text().splitlines() if f"sent (order={desk.order})" in line]
    assert lines
    assert "secret.person@" not in ("".join(lines) if desk.alias == "rq" else log.read_text())
