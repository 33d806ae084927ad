"""What RQ does with a job from its enqueue to its result, in a real worker with a scheduler beside it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rq import life_questions, questions
from tests.support.rq import RQShop, clean, opened, orders, redis_ledger
from tests.support.servers import Redis
from tests.support.worker import wait_for

# -- duplicates ------------------------------------------------------------------------------------------------


def test_a_duplicate_gets_the_originals_result_and_its_dependants_run(shop: RQShop, order: int) -> None:
    """P3: other job ids, by path, positional or keyword alike; with and without the job class."""
    values = shop.ask(life_questions.enqueue_in_all_ways, order)
    assert values == [values[0]] * 6
    assert values[0][0] == "finished"
    assert shop.copies() == 1
    notes = "\n".join(shop.bodies())
    assert "noted" in notes
    assert f"succeeded {values[0][1]}" in notes


def test_ten_jobs_wait_for_one_key_and_spend_no_retries(shop: RQShop, order: int) -> None:
    """P1, P3: who meets a running one comes back by the scheduler, whatever its retries, and replays."""
    with shop.worker_of("emails"):
        values = shop.ask(life_questions.race, order)
    done, left, waits, outcomes, by_the_sender = values
    assert done == [["finished", "sent"]] * 10
    assert left == [1] * 4 + [None] * 5
    assert waits > 0
    assert outcomes == ["duplicate"] * 9 + ["sent"]
    assert by_the_sender
    assert shop.copies() == 1


def test_a_result_that_no_store_keeps(shop: RQShop, order: int) -> None:
    """The send stands; RQ keeps what it can of the result, and duplicates get None."""
    first, second, status = shop.ask(life_questions.lose_the_result, order)
    assert (first, second, status) == ("finished", ["finished", None], "sent")
    assert shop.copies() == 1


def test_jobs_whose_results_are_not_kept(shop: RQShop, order: int) -> None:
    """``result_ttl=0``: RQ deletes the job, the ledger remembers."""
    shop.ask(life_questions.repeat_after_the_job_has_gone, order)
    assert shop.copies() == 1


# -- retries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0, 1])
def test_rqs_own_retries_before_and_after_the_send(shop: RQShop, order: int, interval: int) -> None:
    """P4: never stopped by the job's own claim; after acceptance nothing goes out again."""
    how, _, _, left = shop.ask(
        questions.run_and_look_closer, "stubborn", order, 2, 1, retry={"max": 5, "interval": interval}
    )
    assert (how, left) == (["finished", 4], 2)
    assert shop.copies() == 1


def test_retries_that_are_used_up(shop: RQShop, order: int) -> None:
    """P2: FAILED in RQ and in the ledger; the next job with the key sends."""
    values = shop.ask(life_questions.use_up_the_retries, order)
    assert values == [[["failed", "SMTPException"], "failed"], ["finished", 3]]
    assert shop.copies() == 1


def test_a_duplicate_does_not_defeat_the_backoff(shop: RQShop, order: int) -> None:
    """While the first job has a retry scheduled, another one waits for it, and replays."""
    values = shop.ask(life_questions.duplicate_during_the_backoff, order)
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
    (how, value), found, runs = shop.ask(life_questions.return_retry, order, times, max)
    assert ([how, value], found) == (expected, status)
    assert runs == min(times, max)
    assert shop.copies() == 1


def test_waiting_is_not_of_a_bodys_own_retries(shop: RQShop, order: int) -> None:
    """A job that had to wait for a lease has all retries left that its body asks for."""
    shop.crash_at("after-claim")
    values = shop.ask(life_questions.wait_for_a_lease_and_return_retry, order)
    assert values == [["failed", "Work-horse"], ["finished", "after 2"], True]
    assert shop.copies() == 1


def test_a_doubtful_email_is_not_tried_again_by_rq(shop: RQShop, order: int) -> None:
    """P1: the reply got lost; one attempt, whatever ``Retry`` says, and later jobs are refused at once."""
    shop.server.script["dot"] = "DROP_AFTER_ACCEPT"
    values = shop.ask(life_questions.lose_the_reply, order)
    assert values == [[["failed", "DeliveryInDoubt"]] * 2, "in_doubt"]
    assert shop.copies() == 1
    assert len(shop.bodies()) == 2  # the body, and its line of the send


def test_a_deferred_mail_is_tried_again_and_a_refused_one_is_not(shop: RQShop, order: int) -> None:
    """A temporary refusal is a retry like any other, a permanent one is the end."""
    shop.server.script["rcpt"] = ["450 4.7.1 greylisted", "250 ok"]
    shop.server.forget_calls()
    assert shop.ask(questions.run, "stubborn", order, retry={"max": 2}) == ["finished", 2]
    assert shop.copies() == 1
    shop.server.script["rcpt"] = "550 5.1.1 no such user"
    refused = next(orders)
    assert shop.ask(questions.run_and_look, "stubborn", refused, retry={"max": 2, "interval": 30}) == [
        ["failed", "RecipientsRefused"],
        "failed",
    ]


@pytest.mark.parametrize("retry", [{"max": 2}, None])
def test_an_error_that_the_body_swallows_is_tried_again(
    shop: RQShop, order: int, retry: dict[str, int] | None
) -> None:
    """P2: by the job's own retries, or by deferral; and at their end the job fails with it."""
    shop.server.script["rcpt"] = ["250 ok", "450 4.2.0 busy", "250 ok"]
    shop.server.forget_calls()
    assert shop.ask(questions.run, "swallowing", order, retry=retry) == ["finished", "done"]
    assert [received.recipients for received in shop.server.accepted] == [
        ["ann@example.com"],
        ["bob@example.com"],
    ]
    shop.server.script["rcpt"] = "450 4.2.0 busy"
    late = next(orders)
    assert shop.ask(questions.run_and_look, "swallowing", late, retry=retry) == [
        ["failed", "RecipientsDeferred"],
        "failed",
    ]
    assert sum(line.startswith(f"swallowed {late} ") for line in shop.bodies()) == 3


def test_requeued_by_rq(shop: RQShop, order: int) -> None:
    """``rq requeue`` of a failed job: the same job goes on, and a finished send is not repeated."""
    values = shop.ask(life_questions.requeue, order)
    assert values == [["failed", "SMTPException"], ["failed", "ConnectionError"], ["finished", 3], "sent"]
    assert shop.copies() == 1


# -- functions of every kind ----------------------------------------------------------------------------------


def test_many_at_once(shop: RQShop, order: int) -> None:
    """``enqueue_many`` computes the key of each."""
    values = shop.ask(life_questions.enqueue_many, order)
    done, keys, key = values
    assert done == [done[0]] * 3
    assert keys == [key] * 3
    assert shop.copies() == 1


def test_coroutine_functions(shop: RQShop, order: int) -> None:
    """They are run to their end under the claim."""
    values = shop.ask(questions.run_twice, "awaiting", order)
    assert values == [["finished", "awaited"]] * 2
    assert shop.copies() == 1


def test_calls_from_another_jobs_body(shop: RQShop, order: int) -> None:
    """Each call is an email of its own, in the job of an idempotent function and in one of an ordinary one."""
    values = [shop.ask(questions.run, function, order) for function in ("outer", "ordinary")]
    (how, (inner, itself)), (how_too, value) = values
    assert (how, how_too) == ("finished", "finished")
    assert inner == value
    assert itself == ["inner", -order]
    assert shop.copies() == 3


def test_jobs_in_json(shop: RQShop, order: int) -> None:
    """RQ's JSONSerializer, for arguments, meta and results; waiting as well."""
    with shop.worker_of("json", "-S", "rq.serializers.JSONSerializer"):
        values = shop.ask(life_questions.enqueue_in_json, order)
    assert values == [["finished", "sent"]] * 2 + [True, "finished", False]
    assert shop.copies() == 2


# -- the ledger is away ----------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_ledger_that_is_down_sends_nothing_and_loses_nothing(tmp_path: Any, order: int) -> None:
    """P6: nothing goes out, the job comes back without spending retries, and sends when the ledger is back."""
    with Redis() as ledger, opened(tmp_path, **redis_ledger(ledger.url)) as shop, shop.worker_of():
        ledger.stop()
        shop.ask(questions.keep, "job", "confirm", order)
        wait_for(lambda: shop.ask(questions.count_retries, "job"), 60, shop.logs)
        assert shop.copies() == 0
        ledger.start()
        assert shop.ask(questions.wait_for, "job")[0] == "finished"
        assert clean(shop).ask(questions.run, "confirm", order)[0] == "finished"
        assert shop.copies() == 0


# -- privacy ---------------------------------------------------------------------------------------------------


def test_addresses_stay_out_of_descriptions_meta_and_logs(shop: RQShop, order: int) -> None:
    """P7: the description, which RQ logs and shows, the note in meta and what is logged know the mask alone."""
    shown = shop.ask(life_questions.read_what_is_stored, order, "secret.person@example.com")
    log = (shop.directory / "worker.log").read_text()
    assert shown[0][0] == f"tests.rq.app.confirm(order={order}) {shown[2]['celery_idempotent']['key']}"
    assert shown[0][0] in log
    assert "secret.person" not in str(shown) + log
