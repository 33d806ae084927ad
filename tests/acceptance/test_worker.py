"""The life cycle of a task in a real prefork worker: retries, duplicates, canvas, races, pauses, limits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.acceptance import questions, worker_questions
from tests.support.shop import Shop
from tests.support.worker import wait_for


def test_a_duplicate_gets_the_originals_result(shop: Shop) -> None:
    """P3: other task ids, also by ``send_task`` around the task class, and positional or keyword alike."""
    answers = shop.ask(worker_questions.call_in_all_ways, 1001)
    assert answers == [answers[0]] * 5
    assert shop.copies() == 1


def test_retries_before_and_after_the_send(shop: Shop) -> None:
    """P4: ``autoretry_for`` is never stopped by the task's own claim, and after acceptance nothing goes out."""
    assert shop.ask(questions.run, "stubborn", 1002, 2, 1) == 3
    assert shop.copies() == 1


def test_a_mail_server_that_defers_at_first(shop: Shop) -> None:
    """A temporary refusal is a retry like any other, under one Message-ID."""
    shop.server.script["rcpt"] = ["450 4.7.1 greylisted, try again in 1 second"] * 2 + ["250 ok"]
    assert shop.ask(questions.run, "stubborn", 1003) == 2
    assert shop.copies() == 1


def test_chain_link_group_and_chord_with_duplicates(shop: Shop) -> None:
    """P3: a duplicate is a success, so whatever hangs on it goes on."""
    chained, linked, chorded = shop.ask(worker_questions.hang_on_duplicates, 1004, 1005)
    assert chained == linked == chorded[0] == chorded[1]
    assert chorded[2]["order"] == 1005
    assert shop.copies() == 2


def test_a_rollback_of_the_body_keeps_the_record(shop: Shop) -> None:
    """On SQLite, where the ledger shares the caller's file, the send is refused before anything goes out."""
    state = shop.ask(questions.find_error, "in_transaction", 1006)
    assert state[0] == "UnsafeTransaction"
    assert "CELERY_IDEMPOTENT['DATABASE']" in state[1]
    assert shop.copies() == 0


def test_ten_tasks_race_for_one_key(shop: Shop) -> None:
    """P1: one copy, everybody succeeds with the same result, and nobody spent a retry of its own."""
    values = shop.ask(questions.run_all, [("confirm", 1007)] * 10)
    assert values == [values[0]] * 10
    assert shop.copies() == 1
    assert len(shop.bodies()) == 1


def test_a_paused_process_cannot_send_after_its_lease(shop: Shop) -> None:
    """SIGSTOP in mid-body past the lease, another task takes over and sends; the woken one replays."""
    before = shop.server.count("mail")
    shop.server.hold("mail")
    shop.ask(questions.publish, "confirm", 1008, task_id="paused")
    shop.server.reached("mail", before + 1)
    pid = int(shop.bodies()[-1].split()[-1])
    os.kill(pid, signal.SIGSTOP)
    try:
        shop.server.release("mail")
        time.sleep(2.5)
        value = shop.ask(questions.run_as, "other", "confirm", 1008)
        assert value["by"] == "other"
        assert shop.copies() == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    late = shop.ask(questions.wait_for_result, "paused")
    assert late == value
    assert shop.copies() == 1


def test_a_hard_time_limit_releases_nothing_in_the_parent(shop: Shop) -> None:
    """The claim stays with the lease; after it the key is free again, and one copy goes out."""
    (shop.directory / "fast").unlink(missing_ok=True)
    value, status, _ = shop.ask(questions.run_and_look, "slow", 1009)
    assert [value, status] == ["TimeLimitExceeded", "claimed"]
    (shop.directory / "fast").touch()
    assert shop.ask(questions.run, "slow", 1009) == "sent"
    assert shop.copies() == 1


def test_addresses_and_bodies_stay_out_of_results_and_logs(shop: Shop) -> None:
    """P7: the results table, the ledger and the worker's log know the mask alone, on retries too."""
    shop.ask(questions.run, "stubborn", 1010, 1)
    shop.ask(questions.run, "confirm", 1011, to="secret.person@example.com")
    rows = shop.ask(worker_questions.read_what_is_stored, 1011)
    assert "secret.person@" not in str(rows[0]) + Path(shop.directory / "worker.log").read_text()
    assert "s***@example.com" in str(rows[0])
    assert rows[1]["outcome"] == "sent"


def test_one_log_line_tells_each_outcome(shop: Shop) -> None:
    """Sent and duplicate, with key and first task id."""
    shop.ask(questions.run, "confirm", 1012)
    shop.ask(questions.run, "confirm", 1012)
    for outcome in ("sent", "duplicate"):
        shop.said(f"confirmation: {outcome} (order=1012)")
        assert shop.log().count(f"confirmation: {outcome} (order=1012)") == 1


def test_events_tell_what_flower_counts(shop: Shop) -> None:
    """Celery's own SUCCESS stays; beside it sent, duplicate and in doubt are events with key and first task."""
    shop.server.script["dot"] = ["250 queued", "DROP"]
    heard = shop.ask(worker_questions.listen_to_events, 1013, 1014)
    assert heard[:2] == [["task-email-sent", "first", True], ["task-email-duplicate", "first", True]]
    assert [event[0] for event in heard[2:]] == ["task-email-in-doubt"]


def test_a_resend_in_a_real_worker(shop: Shop) -> None:
    """One more mail, with a Message-ID of its own, whatever is delivered again around it."""
    task_id, values = shop.ask(worker_questions.resend, 71)
    assert [value["by"] for value in values] == [task_id] * 2
    wait_for(lambda: shop.ask(questions.find_status, "confirm", 71) == "sent", 30, shop.logs)
    assert len({mail.message_id for mail in shop.server.accepted}) == shop.copies() == 2
