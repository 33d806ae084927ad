"""What RQ does with a job from its enqueue to its result, in a real worker with a scheduler beside it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.rq import RQShop, clean, opened, orders, redis_ledger
from tests.support.servers import Redis
from tests.support.worker import wait_for

# -- duplicates ------------------------------------------------------------------------------------------------


def test_a_duplicate_gets_the_originals_result_and_its_dependants_run(shop: RQShop, order: int) -> None:
    """P3: other job ids, by path, positional or keyword alike; with and without the job class."""
    values = shop.ask(f"""
first = emails.enqueue(confirm, {order})
wanted = outcome(first)
others = [emails.enqueue(confirm, order={order}), plain.enqueue(confirm, {order}, "ann@example.com"),
          emails.enqueue("tests.rq.app.confirm", {order}), plain.enqueue("tests.rq.app.confirm", {order})]
last = emails.enqueue(confirm, {order}, on_success=on_success())
hung = emails.enqueue(noted, depends_on=last)
outcome(hung)
answer([wanted] + [outcome(job) for job in (*others, last)])
""")
    assert values == [values[0]] * 6
    assert values[0][0] == "finished"
    assert shop.copies() == 1
    notes = "\n".join(shop.bodies())
    assert "noted" in notes
    assert f"succeeded {values[0][1]}" in notes


def test_ten_jobs_wait_for_one_key_and_spend_no_retries(shop: RQShop, order: int) -> None:
    """P1, P3: who meets a running one comes back by the scheduler, whatever its retries, and replays."""
    with shop.worker_of("emails"):
        values = shop.ask(f"""
first = emails.enqueue(dawdling, {order}, 1.5)
others = [emails.enqueue(dawdling, {order}, 1.5, retry=Retry(1)) for _ in range(4)]
others += [emails.enqueue(dawdling, {order}, 1.5) for _ in range(5)]
jobs = [first, *others]
done = [outcome(job) for job in jobs]
notes = {{job.id: job.meta["celery_idempotent"] for job in jobs}}
answer([done, [job.retries_left for job in others], sum(job.number_of_retries or 0 for job in jobs),
        sorted(note["outcome"] for note in notes.values()),
        {{note["first_job_id"] for note in notes.values()}}
        == {{id for id, note in notes.items() if note["outcome"] == "sent"}}])
""")
    done, left, waits, outcomes, by_the_sender = values
    assert done == [["finished", "sent"]] * 10
    assert left == [1] * 4 + [None] * 5
    assert waits > 0
    assert outcomes == ["duplicate"] * 9 + ["sent"]
    assert by_the_sender
    assert shop.copies() == 1


def test_a_result_that_no_store_keeps(shop: RQShop, order: int) -> None:
    """The send stands; RQ keeps what it can of the result, and duplicates get None."""
    first, second, status = shop.ask(f"""
jobs = [emails.enqueue(unserialisable, {order}) for _ in range(2)]
answer([outcome(jobs[0])[0], outcome(jobs[1]), status_of(unserialisable, {order})])
""")
    assert (first, second, status) == ("finished", ["finished", None], "sent")
    assert shop.copies() == 1


def test_jobs_whose_results_are_not_kept(shop: RQShop, order: int) -> None:
    """``result_ttl=0``: RQ deletes the job, the ledger remembers."""
    shop.ask(f"""
job = emails.enqueue(confirm, {order}, result_ttl=0)
import time
end = time.monotonic() + 30
while job.connection.exists(job.key): assert time.monotonic() < end; time.sleep(0.02)
answer(outcome(emails.enqueue(confirm, {order})))
""")
    assert shop.copies() == 1


# -- retries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0, 1])
def test_rqs_own_retries_before_and_after_the_send(shop: RQShop, order: int, interval: int) -> None:
    """P4: never stopped by the job's own claim; after acceptance nothing goes out again."""
    how, left = shop.ask(f"""
job = emails.enqueue(stubborn, {order}, 2, 1, retry=Retry(5, interval={interval}))
answer([outcome(job), job.retries_left])
""")
    assert (how, left) == (["finished", 4], 2)
    assert shop.copies() == 1


def test_retries_that_are_used_up(shop: RQShop, order: int) -> None:
    """P2: FAILED in RQ and in the ledger; the next job with the key sends."""
    values = shop.ask(f"""
job = emails.enqueue(stubborn, {order}, 3, retry=Retry(1))
first = [outcome(job), status_of(stubborn, {order})]
answer([first, outcome(emails.enqueue(stubborn, {order}, 2))])
""")
    assert values == [[["failed", "SMTPException"], "failed"], ["finished", 3]]
    assert shop.copies() == 1


def test_a_duplicate_does_not_defeat_the_backoff(shop: RQShop, order: int) -> None:
    """While the first job has a retry scheduled, another one waits for it, and replays."""
    values = shop.ask(f"""
first = emails.enqueue(stubborn, {order}, 1, retry=Retry(1, interval=2))
import time
while not (first.is_scheduled or first.is_finished): time.sleep(0.01)
second = emails.enqueue(stubborn, {order}, 1)
answer([outcome(first), outcome(second), second.meta["celery_idempotent"]["outcome"]])
""")
    assert values == [["finished", 2], ["finished", 2], "duplicate"]
    assert shop.copies() == 1


@pytest.mark.parametrize(
    ("times", "max", "expected", "status"),
    [
        (1, 1, ["finished", "after 2"], "sent"),
        (2, 3, ["finished", "after 3"], "sent"),
        (3, 2, ["failed", ""], "failed"),  # RQ has no error to show then
    ],
)
def test_a_body_that_returns_retry(
    shop: RQShop, order: int, times: int, max: int, expected: list[str], status: str
) -> None:
    """It runs again, as often as RQ says; what was sent is not sent again, and no Retry is kept as a result."""
    (how, value), found, runs = shop.ask(f"""
job = emails.enqueue(returning, {order}, {times}, {max}, [0, 1])
answer([outcome(job), status_of(returning, {order}), job.number_of_retries])
""")
    assert ([how, value], found) == (expected, status)
    assert runs == min(times, max)
    assert shop.copies() == 1


def test_waiting_is_not_of_a_bodys_own_retries(shop: RQShop, order: int) -> None:
    """A job that had to wait for a lease has all retries left that its body asks for."""
    shop.crash_at("after-claim")
    values = shop.ask(f"""
killed = outcome(emails.enqueue(returning, {order}, 1, 1))
job = emails.enqueue(returning, {order}, 1, 1)
answer([killed, outcome(job), job.number_of_retries > 1])
""")
    assert values == [["failed", "Work-horse"], ["finished", "after 2"], True]
    assert shop.copies() == 1


def test_a_doubtful_email_is_not_tried_again_by_rq(shop: RQShop, order: int) -> None:
    """P1: the reply got lost; one attempt, whatever ``Retry`` says, and later jobs are refused at once."""
    shop.server.script["dot"] = "DROP_AFTER_ACCEPT"
    values = shop.ask(f"""
jobs = [emails.enqueue(stubborn, {order}, retry=Retry(5, interval=30)) for _ in range(2)]
answer([[outcome(job) for job in jobs], status_of(stubborn, {order})])
""")
    assert values == [[["failed", "DeliveryInDoubt"]] * 2, "in_doubt"]
    assert shop.copies() == 1
    assert len(shop.bodies()) == 2  # the body, and its line of the send


def test_a_deferred_mail_is_tried_again_and_a_refused_one_is_not(shop: RQShop, order: int) -> None:
    """A temporary refusal is a retry like any other, a permanent one is the end."""
    shop.server.script["rcpt"] = ["450 4.7.1 greylisted", "250 ok"]
    shop.server.forget_calls()
    assert shop.ask(f"answer(outcome(emails.enqueue(stubborn, {order}, retry=Retry(2))))") == ["finished", 2]
    assert shop.copies() == 1
    shop.server.script["rcpt"] = "550 5.1.1 no such user"
    refused = next(orders)
    assert shop.ask(f"""
job = emails.enqueue(stubborn, {refused}, retry=Retry(2, interval=30))
answer([outcome(job), status_of(stubborn, {refused})])
""") == [["failed", "RecipientsRefused"], "failed"]


@pytest.mark.parametrize("retry", ["Retry(2)", "None"])
def test_an_error_that_the_body_swallows_is_tried_again(shop: RQShop, order: int, retry: str) -> None:
    """P2: by the job's own retries, or by deferral; and at their end the job fails with it."""
    shop.server.script["rcpt"] = ["250 ok", "450 4.2.0 busy", "250 ok"]
    shop.server.forget_calls()
    job = f"emails.enqueue(swallowing, {{}}, retry={retry})"
    assert shop.ask(f"answer(outcome({job.format(order)}))") == ["finished", "done"]
    assert [received.recipients for received in shop.server.accepted] == [
        ["ann@example.com"],
        ["bob@example.com"],
    ]
    shop.server.script["rcpt"] = "450 4.2.0 busy"
    late = next(orders)
    assert shop.ask(f"answer([outcome({job.format(late)}), status_of(swallowing, {late})])") == [
        ["failed", "RecipientsDeferred"],
        "failed",
    ]
    assert sum(line.startswith(f"swallowed {late} ") for line in shop.bodies()) == 3


def test_requeued_by_rq(shop: RQShop, order: int) -> None:
    """``rq requeue`` of a failed job: the same job goes on, and a finished send is not repeated."""
    values = shop.ask(f"""
job = emails.enqueue(stubborn, {order}, 1, 1)
first = outcome(job)
import subprocess, sys
def requeue():
    subprocess.run([sys.executable, "-m", "rq.cli", "requeue", "--queue", "emails",
                    "--url", os.environ["TEST_BROKER"], job.id], check=True, capture_output=True)
    return outcome(job)
answer([first, requeue(), requeue(), status_of(stubborn, {order})])
""")
    assert values == [["failed", "SMTPException"], ["failed", "ConnectionError"], ["finished", 3], "sent"]
    assert shop.copies() == 1


# -- functions of every kind ----------------------------------------------------------------------------------


def test_many_at_once(shop: RQShop, order: int) -> None:
    """``enqueue_many`` computes the key of each."""
    values = shop.ask(f"""
jobs = emails.enqueue_many([Queue.prepare_data(confirm, ({order},)) for _ in range(3)])
answer([[outcome(job) for job in jobs], [job.meta["celery_idempotent"]["key"] for job in jobs],
        confirm.key_for({order})])
""")
    done, keys, key = values
    assert done == [done[0]] * 3
    assert keys == [key] * 3
    assert shop.copies() == 1


def test_coroutine_functions(shop: RQShop, order: int) -> None:
    """They are run to their end under the claim."""
    values = shop.ask(f"answer([outcome(emails.enqueue(awaiting, {order})) for _ in range(2)])")
    assert values == [["finished", "awaited"]] * 2
    assert shop.copies() == 1


def test_calls_from_another_jobs_body(shop: RQShop, order: int) -> None:
    """Each call is an email of its own, in the job of an idempotent function and in one of an ordinary one."""
    values = shop.ask(f"""
answer([outcome(emails.enqueue(outer, {order})), outcome(emails.enqueue(ordinary, {order}))])
""")
    (how, (inner, itself)), (how_too, value) = values
    assert (how, how_too) == ("finished", "finished")
    assert inner == value
    assert itself == ["inner", -order]
    assert shop.copies() == 3


def test_jobs_in_json(shop: RQShop, order: int) -> None:
    """RQ's JSONSerializer, for arguments, meta and results; waiting as well."""
    with shop.worker_of("json", "-S", "rq.serializers.JSONSerializer"):
        values = shop.ask(f"""
json_queue = Queue("json", connection=connection, job_class=IdempotentJob, serializer=JSONSerializer)
running = emails.enqueue(dawdling, {order}, 1)
import time
while not (running.is_started or running.is_finished): time.sleep(0.01)
waiting = json_queue.enqueue(dawdling, {order}, 1)
job = json_queue.enqueue(confirm, {order})
answer([outcome(running), outcome(waiting), waiting.number_of_retries > 0, outcome(job)[0], job.meta == {{}}])
""")
    assert values == [["finished", "sent"]] * 2 + [True, "finished", False]
    assert shop.copies() == 2


# -- the ledger is away ----------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_ledger_that_is_down_sends_nothing_and_loses_nothing(tmp_path: Any, order: int) -> None:
    """P6: nothing goes out, the job comes back without spending retries, and sends when the ledger is back."""
    with Redis() as ledger, opened(tmp_path, **redis_ledger(ledger.url)) as shop, shop.worker_of():
        ledger.stop()
        shop.ask(f"keep['job'] = emails.enqueue(confirm, {order})")
        wait_for(
            lambda: shop.ask("keep['job'].refresh(); answer(keep['job'].number_of_retries)"), 60, shop.logs
        )
        assert shop.copies() == 0
        ledger.start()
        assert shop.ask("answer(outcome(keep['job'])[0])") == "finished"
        assert clean(shop).ask(f"answer(outcome(emails.enqueue(confirm, {order}))[0])") == "finished"
        assert shop.copies() == 0


# -- privacy ---------------------------------------------------------------------------------------------------


def test_addresses_stay_out_of_descriptions_meta_and_logs(shop: RQShop, order: int) -> None:
    """P7: the description, which RQ logs and shows, the note in meta and what is logged know the mask alone."""
    shown = shop.ask(f"""
job = emails.enqueue(confirm, {order}, to="secret.person@example.com")
first = [job.description, job.meta]
outcome(job)
again = emails.enqueue("tests.rq.app.confirm", {order}, to="secret.person@example.com")
outcome(again)
answer([first, job.description, job.meta, again.description, again.meta])
""")
    log = (shop.directory / "worker.log").read_text()
    assert shown[0][0] == f"tests.rq.app.confirm(order={order}) {shown[2]['celery_idempotent']['key']}"
    assert shown[0][0] in log
    assert "secret.person" not in str(shown) + log
