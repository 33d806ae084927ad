"""The life cycle of a task in a real prefork worker: retries, duplicates, canvas, races, pauses, limits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.support.shop import Shop
from tests.support.worker import wait_for


def test_a_duplicate_gets_the_originals_result(shop: Shop) -> None:
    """P3: other task ids, also by ``send_task`` around the task class, and positional or keyword alike."""
    answers = shop.ask("""
first = confirm.delay(1001)
value = first.get(timeout=60)
others = [confirm.delay(1001), confirm.delay(order=1001),
          confirm.apply_async((1001,), {"to": "ann@example.com"}),
          app.send_task("tests.acceptance.app.confirm", (1001,))]
answer([value] + [other.get(timeout=60) for other in others])
""")
    assert answers == [answers[0]] * 5
    assert shop.copies() == 1


def test_retries_before_and_after_the_send(shop: Shop) -> None:
    """P4: ``autoretry_for`` is never stopped by the task's own claim, and after acceptance nothing goes out."""
    assert shop.ask("answer(stubborn.delay(1002, 2, 1).get(timeout=60))") == 3
    assert shop.copies() == 1


def test_a_mail_server_that_defers_at_first(shop: Shop) -> None:
    """A temporary refusal is a retry like any other, under one Message-ID."""
    shop.server.script["rcpt"] = ["450 4.7.1 greylisted, try again in 1 second"] * 2 + ["250 ok"]
    assert shop.ask("answer(stubborn.delay(1003).get(timeout=60))") == 2
    assert shop.copies() == 1


def test_chain_link_group_and_chord_with_duplicates(shop: Shop) -> None:
    """P3: a duplicate is a success, so whatever hangs on it goes on."""
    chained, linked, chorded = shop.ask("""
from celery import chain, chord
value = confirm.delay(1004).get(timeout=60)
chained = chain(confirm.si(1004), collect.s()).delay().get(timeout=60)
linked = confirm.apply_async((1004,), link=collect.s())
linked.get(timeout=60)
chorded = chord([confirm.si(1004), confirm.si(1004), confirm.si(1005)], collect.s()).delay().get(timeout=60)
answer([chained, linked.get(), chorded])
""")
    assert chained == linked == chorded[0] == chorded[1]
    assert chorded[2]["order"] == 1005
    assert shop.copies() == 2


def test_a_rollback_of_the_body_keeps_the_record(shop: Shop) -> None:
    """On SQLite, where the ledger shares the caller's file, the send is refused before anything goes out."""
    state = shop.ask("""
result = in_transaction.delay(1006)
try: result.get(timeout=60)
except Exception as error: answer([type(error).__name__, str(error)])
""")
    assert state[0] == "UnsafeTransaction"
    assert "CELERY_IDEMPOTENT['DATABASE']" in state[1]
    assert shop.copies() == 0


def test_ten_tasks_race_for_one_key(shop: Shop) -> None:
    """P1: one copy, everybody succeeds with the same result, and nobody spent a retry of its own."""
    values = shop.ask("""
results = [confirm.delay(1007) for _ in range(10)]
answer([result.get(timeout=80) for result in results])
""")
    assert values == [values[0]] * 10
    assert shop.copies() == 1
    assert len(shop.bodies()) == 1


def test_a_paused_process_cannot_send_after_its_lease(shop: Shop) -> None:
    """SIGSTOP in mid-body past the lease, another task takes over and sends; the woken one replays."""
    before = shop.server.count("mail")
    shop.server.hold("mail")
    shop.ask("answer(confirm.apply_async((1008,), task_id='paused').id)")
    shop.server.reached("mail", before + 1)
    pid = int(shop.bodies()[-1].split()[-1])
    os.kill(pid, signal.SIGSTOP)
    try:
        shop.server.release("mail")
        time.sleep(2.5)
        value = shop.ask("answer(confirm.apply_async((1008,), task_id='other').get(timeout=60))")
        assert value["by"] == "other"
        assert shop.copies() == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    late = shop.ask("answer(app.AsyncResult('paused').get(timeout=60))")
    assert late == value
    assert shop.copies() == 1


def test_a_hard_time_limit_releases_nothing_in_the_parent(shop: Shop) -> None:
    """The claim stays with the lease; after it the key is free again, and one copy goes out."""
    (shop.directory / "fast").unlink(missing_ok=True)
    outcome = shop.ask("""
result = slow.delay(1009)
try: result.get(timeout=60)
except Exception as error: answer([type(error).__name__, slow.entry_for(1009).status])
""")
    assert outcome == ["TimeLimitExceeded", "claimed"]
    (shop.directory / "fast").touch()
    assert shop.ask("answer(slow.delay(1009).get(timeout=60))") == "sent"
    assert shop.copies() == 1


def test_addresses_and_bodies_stay_out_of_results_and_logs(shop: Shop) -> None:
    """P7: the results table, the ledger and the worker's log know the mask alone, on retries too."""
    shop.ask("answer(stubborn.delay(1010, 1).get(timeout=60))")
    shop.ask("confirm.delay(1011, to='secret.person@example.com').get(timeout=60)")
    rows = shop.ask("""
from django_celery_results.models import TaskResult
from celery_idempotent.models import *
import django.core.serializers as s
rows = [s.serialize("json", m.objects.all()) for m in (TaskResult, LogicalEmail, Delivery, SendAttempt)]
meta = json.loads(TaskResult.objects.get(task_args__contains=confirm.key_for(1011)).meta)
answer([rows, meta["celery_idempotent"]])
""")
    assert "secret.person@" not in str(rows[0]) + Path(shop.directory / "worker.log").read_text()
    assert "s***@example.com" in str(rows[0])
    assert rows[1]["outcome"] == "sent"


def test_one_log_line_tells_each_outcome(shop: Shop) -> None:
    """Sent and duplicate, with key and first task id."""
    shop.ask("a = confirm.delay(1012); a.get(timeout=60); confirm.delay(1012).get(timeout=60)")
    for outcome in ("sent", "duplicate"):
        shop.said(f"confirmation: {outcome} (order=1012)")
        assert shop.log().count(f"confirmation: {outcome} (order=1012)") == 1


def test_events_tell_what_flower_counts(shop: Shop) -> None:
    """Celery's own SUCCESS stays; beside it sent, duplicate and in doubt are events with key and first task."""
    shop.server.script["dot"] = ["250 queued", "DROP"]
    heard = shop.ask("""
import threading, time
from celery.events import EventReceiver
heard, ready = [], threading.Event()
EventReceiver.on_consume_ready = lambda *_, **__: ready.set()
def listen():
    with app.connection_for_read() as connection:
        app.events.Receiver(connection, handlers={"*": heard.append}).capture(limit=None, wakeup=False)
threading.Thread(target=listen, daemon=True).start()
assert ready.wait(20)
confirm.apply_async((1013,), task_id="first").get(timeout=60)
confirm.delay(1013).get(timeout=60)
try: confirm.delay(1014).get(timeout=60)
except Exception: pass
end = time.monotonic() + 20
while not any(event["type"] == "task-email-in-doubt" for event in heard) and time.monotonic() < end:
    time.sleep(0.05)
ours = [event for event in list(heard) if "email" in event["type"]]
answer([[e["type"], e["first_task_id"], e["key"] == confirm.key_for(1013)] for e in ours])
""")
    assert heard[:2] == [["task-email-sent", "first", True], ["task-email-duplicate", "first", True]]
    assert [event[0] for event in heard[2:]] == ["task-email-in-doubt"]


def test_a_resend_in_a_real_worker(shop: Shop) -> None:
    """One more mail, with a Message-ID of its own, whatever is delivered again around it."""
    task_id, values = shop.ask("""
confirm.apply_async((71,), task_id="resent-1").get(timeout=60)
again = confirm.resend(71, actor="ann", reason="lost").id
for task_id in ("resent-1", "resent-2", again): confirm.apply_async((71,), task_id=task_id)
answer([again, [app.AsyncResult(task_id).get(timeout=60) for task_id in (again, "resent-2")]])
""")
    assert [value["by"] for value in values] == [task_id] * 2
    wait_for(lambda: shop.ask("answer(confirm.entry_for(71).status.value)") == "sent", 30, shop.logs)
    assert len({mail.message_id for mail in shop.server.accepted}) == shop.copies() == 2
