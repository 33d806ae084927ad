"""Django tasks in real workers: the database backend's db_worker and the RQ backend's rqworker."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.django_tasks.site import Site
from tests.support.mailserver import DROP_AFTER_ACCEPT

orders = itertools.count(1)


class Desk:
    """Enqueues on one backend and tells what became of it."""

    def __init__(self, site: Site, alias: str) -> None:
        self.site, self.alias, self.order = site, alias, next(orders)

    def ask(self, code: str) -> Any:
        """Run ``code`` in the project, with the backend's alias and the order of this test."""
        return self.site.ask(f"alias, order = {self.alias!r}, {self.order}\n{code}")

    def behind(self, lease: float) -> str:
        """Let somebody else hold the claim, enqueue a task that has to wait for it, and return its id."""
        return str(
            self.ask(f"""
held = seed(confirm, order, lease={lease})
claimed = held.claimed()
waiting = confirm.using(backend=alias).enqueue(order)
answer(waiting.id)
""")
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
    first, *others = desk.ask("""
from datetime import timedelta
from django.utils import timezone
on = confirm.using(backend=alias)
priority = on.using(queue_name="mails") if alias == "rq" else on.using(queue_name="mails", priority=50)
soon = on.using(run_after=timezone.now() + timedelta(seconds=1))
results = [on.enqueue(order), on.enqueue(order=order), on.enqueue(order, to="ann@example.com"),
           priority.enqueue(order), soon.enqueue(order)]
answer([outcome(result) for result in results])
""")
    assert first[0] == "SUCCESSFUL"
    assert first[1]["order"] == desk.order
    assert others == [first] * 4
    assert (desk.site.copies(), len(desk.site.bodies())) == (1, 1)


def test_context_and_coroutines(desk: Desk) -> None:
    """Both kinds of function, twice each: the context changes neither key nor content."""
    contexts, awaited, keys = desk.ask("""
contexts = [with_context.using(backend=alias).enqueue(order) for _ in range(2)]
awaited = [later.using(backend=alias).enqueue(order) for _ in range(2)]
answer([[outcome(r) for r in contexts], [outcome(r) for r in awaited],
        [with_context.func.key_for(order) == entry(with_context, order).key,
         owner(with_context, order) in [r.id for r in contexts]]])
""")
    assert contexts[0] == contexts[1]
    assert contexts[0][0] == "SUCCESSFUL"
    assert awaited == [["SUCCESSFUL", f"awaited {desk.order}"]] * 2
    assert keys == [True, True]
    assert desk.site.copies() == 2


def test_an_error_is_final_and_the_next_task_goes_on(desk: Desk) -> None:
    """FAILED, and free: the next task runs the body again, which does not send again."""
    first, status, second = desk.ask("""
first = outcome(failing.using(backend=alias).enqueue(order))
status = entry(failing, order).status
answer([first, status, outcome(failing.using(backend=alias).enqueue(order, fail=False))])
""")
    assert first[:2] == ["FAILED", "ValueError"]
    assert (status, second) == ("failed", ["SUCCESSFUL", "sent"])
    assert desk.site.copies() == 1


def test_a_rollback_of_the_body_undoes_no_record(desk: Desk) -> None:
    """P5: sent inside `atomic`, rolled back; the next task does not send again."""
    first, second, attempts = desk.ask("""
first = outcome(in_transaction.using(backend=alias).enqueue(order))
second = outcome(in_transaction.using(backend=alias).enqueue(order, fail=False))
answer([first, second, entry(in_transaction, order).attempts])
""")
    assert first[:2] == ["FAILED", "ValueError"]
    assert (second, attempts) == (["SUCCESSFUL", "committed"], 1)
    assert desk.site.copies() == 1


def test_a_lost_reply_is_doubt(desk: Desk) -> None:
    """P1: the task fails with `DeliveryInDoubt`, and so does the next one; operations see the entry."""
    desk.site.mail.script["dot"] = DROP_AFTER_ACCEPT
    results = desk.ask("""
results = [outcome(confirm.using(backend=alias).enqueue(order)) for _ in range(2)]
answer([*results, entry(confirm, order).status])
""")
    assert [result[:2] for result in results[:2]] == [["FAILED", "DeliveryInDoubt"]] * 2
    assert results[2] == "in_doubt"
    assert desk.site.copies() == 1


def test_a_call_without_its_key(desk: Desk) -> None:
    """`enqueue` raises; the task, which is in the queue by then, fails with the same words."""
    said, failed = desk.ask("""
from unittest import mock
from celery_idempotent import KeyFieldError
from celery_idempotent.contrib import django_tasks
enqueued = []
identify = django_tasks._declared
with mock.patch.object(django_tasks, "_declared", lambda result: enqueued.append(result) or identify(result)):
    try:
        confirm.using(backend=alias).enqueue(None)
    except KeyFieldError as error:
        said = str(error)
answer([said, outcome(enqueued[0])])
""")
    assert said.startswith("tests.django_tasks.project.confirm: key field 'order' is None")
    assert failed[:2] == ["FAILED", "KeyFieldError"]
    assert said in failed[2]
    assert desk.site.copies() == 0


def test_a_claim_held_by_somebody_else_is_waited_for(desk: Desk) -> None:
    """The task comes back until the other one is done, and then returns what that returned."""
    desk.site.said(desk.waits(desk.behind(lease=30)))
    assert desk.ask("held.ledger.complete(claimed, 'theirs'); answer(outcome(waiting))") == [
        "SUCCESSFUL",
        "theirs",
    ]
    assert desk.site.copies() == 0


def test_a_longer_wait_than_a_worker_has_patience_for(desk: Desk) -> None:
    """Nothing is lost: db_worker's task fails and names the one that goes on; RQ's own job comes back."""
    task = desk.behind(lease=60)
    if desk.alias == "default":
        failed = desk.ask("answer(outcome(waiting))")
        assert failed[:2] == ["FAILED", "InProgress"]
        task = failed[2].rpartition("; this goes on as task ")[2]
        desk.ask(f"waiting = confirm.get_result({task!r})")
    else:
        desk.site.said(desk.waits(task), times=2)
    desk.ask("held.ledger.fail(claimed, 'gave up')")
    status, value = desk.ask("answer(outcome(waiting))")
    assert (status, value["order"]) == ("SUCCESSFUL", desk.order)
    assert desk.ask("answer(owner(confirm, order))") == task
    assert desk.site.copies() == 1


def test_enqueued_inside_a_transaction_that_rolls_back(desk: Desk) -> None:
    """The database's task goes with it; RQ's is in Redis at once, so there `on_commit` is the way."""
    rows = desk.ask("""
def roll_back(add):
    try:
        with transaction.atomic():
            add()
            raise ValueError
    except ValueError:
        pass
results = []
roll_back(lambda: results.append(confirm.using(backend=alias).enqueue(order)))
roll_back(lambda: transaction.on_commit(lambda: confirm.using(backend=alias).enqueue(-order)))
after = outcome(confirm.using(backend=alias).enqueue(1000 + order))
ran = outcome(results[0])[0] if alias == "rq" else owner(confirm, order)
answer([ran, owner(confirm, -order), after[0]])
""")
    assert rows == ["SUCCESSFUL" if desk.alias == "rq" else None, None, "SUCCESSFUL"]
    assert desk.site.copies() == (1 if desk.alias == "default" else 2)


def test_the_immediate_backend_inside_a_transaction(desk: Desk) -> None:
    """On a server the record stays when the caller rolls back: one copy, even so."""
    results = desk.ask("""
results = []
on = confirm.using(backend="immediate")
try:
    with transaction.atomic():
        results.append(on.enqueue(order))
        raise ValueError
except ValueError:
    results.append(on.enqueue(order))
answer([outcome(result) for result in results])
""")
    assert results[0] == results[1]
    assert results[0][0] == "SUCCESSFUL"
    assert desk.site.copies() == 1


def test_a_ledger_that_is_down_sends_nothing_and_loses_nothing(desk: Desk) -> None:
    """P6: stopped right before the write-ahead, longer than a worker has patience, and back: sent once."""
    site = desk.site
    before = site.mail.count("data")
    site.mail.hold("data")
    task = desk.ask("patient = confirm.using(backend=alias).enqueue(order); answer(patient.id)")
    site.mail.reached("data", before + 1)
    site.database.stop()
    site.mail.release("data")
    says = {"default": f"[{task}] waits: it cannot be enqueued anew", "rq": desk.waits(task)}
    site.said(says[desk.alias])
    assert site.copies() == 0
    site.database.start()
    # Back just as db_worker was about to enqueue the task anew, it has done that.
    last, status, value = desk.ask("answer(last(patient))")
    assert (status, value["order"]) == ("SUCCESSFUL", desk.order)
    assert desk.ask("answer(owner(confirm, order))") == last
    assert [text for text, _ in site.mails()] == [f"Order {desk.order}"], site.logs()


def test_addresses_stay_out_of_what_the_ledger_writes(desk: Desk) -> None:
    """P7: rows and log lines know the mask alone. RQ logs a job's arguments by itself, db_worker does not."""
    rows = desk.ask("""
from celery_idempotent.models import Delivery, LogicalEmail, SendAttempt
from django.core import serializers
outcome(confirm.using(backend=alias).enqueue(order, to="secret.person@example.com"))
answer([serializers.serialize("json", model.objects.all()) for model in (LogicalEmail, Delivery, SendAttempt)])
""")
    assert "s***@example.com" in str(rows)
    assert "secret.person@" not in str(rows)
    log = desk.site.directory / ("db_worker.log" if desk.alias == "default" else "rqworker.log")
    lines = [line for line in log.read_text().splitlines() if f"sent (order={desk.order})" in line]
    assert lines
    assert "secret.person@" not in ("".join(lines) if desk.alias == "rq" else log.read_text())
