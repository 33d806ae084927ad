"""``manage.py idempotency``: what it shows, what it decides, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.core.management import CommandError, call_command
from django.db import connection

from celery_idempotent import IdempotentEmailTask, Status, registry, retention, signals, wiring
from celery_idempotent.core.entry import After, Recipient
from celery_idempotent.core.ledger import Ledger
from celery_idempotent.core.outcomes import Asker, Policy, Reply
from celery_idempotent.core.status import DeliveryStatus
from celery_idempotent.identity import as_note, asker_of
from celery_idempotent.models import Delivery, LogicalEmail, OutboxMessage

TARGET = ("0", Recipient("d1" * 32, "a***@example.com"))
ACCEPTED = {TARGET: Reply(DeliveryStatus.ACCEPTED, 250, "queued as 4711")}
DOUBTFUL = {TARGET: Reply(DeliveryStatus.IN_DOUBT, None, "connection lost")}
POLICY = Policy()
WHY = ("--reason", "ticket 5", "--actor", "ann")


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A project with one email task, and no tasks of other test modules."""
    from celery import _state

    before, seen = _state._tls.current_app, registry.tasks
    app = Celery("commands", broker="redis://broker", set_as_current=True)

    @app.task(base=IdempotentEmailTask, name="commanded", shared=False, key_fields=("order_id", "to"))
    def commanded(order_id: Any, to: str) -> None: ...

    for module in (registry, retention):
        monkeypatch.setattr(module, "tasks", lambda app=None: (t for t in seen(app) if t.name == "commanded"))
        monkeypatch.setattr(module, "functions", list)
    yield app
    _state._tls.current_app = before


@pytest.fixture(params=["database", "redis"])
def ledger(request: Any, keep_ledger_in: Callable[[str], None], db: None, app: Celery) -> Ledger:
    """An empty ledger."""
    keep_ledger_in(request.param)
    return wiring.get_ledger()


def asker(app: Celery, order_id: Any = 7, task_id: str = "task-7") -> Asker:
    task = app.tasks["commanded"]
    return asker_of(task, as_note(task._identify((order_id, "ann@example.com"), {}), task_id), "worker@host")


def made(ledger: Ledger, who: Asker, replies: Any = ACCEPTED) -> Any:
    """An email that is sent, or in doubt."""
    entry = ledger.claim(who, POLICY).entry
    entry = ledger.begin(entry, [TARGET], "<m@shop>", who, POLICY)
    entry = ledger.settle(entry, replies, "<m@shop>", who, POLICY)
    if entry.status is not Status.IN_DOUBT:
        entry = ledger.complete(entry, {"ok": 1})
    if mirror := wiring.get_mirror():
        mirror.keep(entry)
    return entry


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("idempotency", *arguments, stdout=out, no_color=True)
    return out.getvalue()


def refused(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as error:
        run(*arguments)
    return error.value


def entry_of(ledger: Ledger, key: str) -> Any:
    stored = ledger.store.get(key)
    assert stored is not None
    return stored.entry


# -- looking -----------------------------------------------------------------------------------------------


def test_show_finds_an_email_by_whatever_one_has(ledger: Ledger, app: Celery) -> None:
    """Key, the beginning of one, task id, Message-ID, or the key fields as one would type them."""
    entry = made(ledger, asker(app))
    made(ledger, asker(app, 8, "task-8"))
    fields = ("--type", "commanded", "--field", "order_id=7", "--field", "to=Ann@Example.com")
    for arguments in ((entry.key,), (entry.key[:14],), (entry.key[2:14],), ("task-7",), fields):
        page = run("show", *arguments)
        for text in (entry.key, "order_id=7", "a***@example.com", "queued as 4711", "worker@host", "Done."):
            assert text in page
    assert "ann@example.com" not in page
    several = run("show", "<m@shop>")
    assert several.count("commanded") == 2


def test_a_number_and_its_text_are_two_keys(ledger: Ledger, app: Celery) -> None:
    """Typed in a shell they look alike, so both are looked for."""
    made(ledger, asker(app, "7", "task-text"))
    fields = ("--type", "commanded", "--field", "order_id=7", "--field", "to=ann@example.com")
    assert "task-text" in run("show", *fields)
    made(ledger, asker(app, 7))
    assert run("show", *fields).count("commanded") == 2


def test_show_for_machines(ledger: Ledger, app: Celery) -> None:
    """All of it, as JSON; never an address in clear."""
    entry = made(ledger, asker(app))
    (data,) = json.loads(run("show", entry.key, "--json"))
    assert (data["status"], data["result"], data["generation"]) == ("sent", {"ok": 1}, 1)
    assert data["deliveries"][0]["code"] == 250
    assert data["send_attempts"][0]["worker"] == "worker@host"
    assert data["sent_at"] == entry.sent_at.isoformat()


def test_a_sent_email_whose_body_was_cut_off_is_counted_and_listed(
    ledger: Ledger, app: Celery, settings: Any
) -> None:
    """After the time that makes others stuck, and yet not as stuck nor as a failure: that may have been all."""
    settings.SILENCED_SYSTEM_CHECKS = [f"celery_idempotent.{name}" for name in ("W020", "W021", "W012")]
    made(ledger, asker(app))
    cut_off = made(ledger, asker(app, 8, "task-8"), DOUBTFUL)
    run("resolve", "task-8", "--sent", *WHY)
    assert "\n0 unfinished" in run("stats")
    assert "unfinished since" in run("show", "task-8")
    since = LogicalEmail.objects.get(owner="task-8").updated_at - timedelta(hours=3)
    LogicalEmail.objects.filter(unfinished=True).update(deadline=since)
    assert "\n1 unfinished" in run("stats")
    assert json.loads(run("stats", "--json"))["unfinished"] == 1
    assert [one["key"] for one in json.loads(run("stats", "--unfinished", "--json"))] == [cut_off.key]
    assert run("stats", "--unfinished", "--stuck-after", "4h").strip() == "none"
    assert run("stats", "--stuck", "--stuck-after", "0s").strip() == "none"
    assert "ok     unfinished: 1 sent, and cut off" in run("doctor")
    swept = json.loads(run("sweep", "--stuck-after", "0s", "--json"))
    assert (swept["released"], swept["in_doubt"], swept["stuck"]) == (0, 0, []), "it is nobody's claim"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("show", "nothing"), "nothing is known"),
        (("show",), "give a key"),
        (("show", "x", "--type", "commanded"), "give a key"),
        (("show", "--type", "unknown", "--field", "a=1"), "there are commanded"),
        (("show", "--type", "commanded", "--field", "order_id=7"), "order_id, to; give each"),
        (("show", "--type", "commanded", "--field", "nonsense"), "name=value"),
        (("resolve", "nothing", "--sent", *WHY), "nothing is known by 'nothing'"),
        (("resolve", "x", *WHY), "--sent --not-sent is required"),
        (("cancel", "x"), "--reason"),
        (("cancel", "x", "--reason", " "), "nothing is known"),
        (("purge", "--older-than", "90"), "write 90d"),
        (("purge", "--older-than=-5d"), "is negative"),
        (("purge", "--older-than", "-5d"), "is negative"),
        (("sweep", "--stuck-after", "-5d", "--limit", "5"), "is negative"),
        (("purge", "--batch", "0"), "from 1 to"),
        (("sweep", "--limit", "-1"), "from 1 to"),
        (("forget", "ann", *WHY), "one address"),
        (("dance",), "invalid choice"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(ledger: Ledger, arguments: tuple[str, ...], text: str) -> None:
    """One sentence, no traceback."""
    assert text in str(refused(*arguments))


def test_stats(ledger: Ledger, app: Celery) -> None:
    """Counts by type and status, and lists of what waits."""
    assert "0 stuck" in run("stats")
    made(ledger, asker(app))
    doubtful = made(ledger, asker(app, 8, "task-8"), DOUBTFUL)
    table = run("stats")
    headings, line, total = (row.split() for row in table.splitlines()[:3])
    assert line[0] == "commanded"
    assert "sent" in headings
    assert line[1:] == total[1:]
    data = json.loads(run("stats", "--json"))
    assert data["types"]["commanded"]["sent"] == 1
    assert data["types"]["commanded"]["in_doubt"] == 1
    assert doubtful.key in run("stats", "--in-doubt")
    assert run("stats", "--stuck").strip() == "none"
    LogicalEmail.objects.update(updated_at=doubtful.created_at - timedelta(hours=3))
    assert doubtful.key in run("stats", "--stuck")
    assert run("stats", "--stuck", "--stuck-after", "4h").strip() == "none"
    assert [one["key"] for one in json.loads(run("stats", "--in-doubt", "--json"))] == [doubtful.key]


# -- deciding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "status"), [("--sent", Status.SENT), ("--not-sent", Status.RELEASED)])
def test_resolve(ledger: Ledger, app: Celery, verdict: str, status: Status) -> None:
    """Settled, audited, told by a signal, and in the tables; twice is refused."""
    heard: list[Any] = []

    def listen(**said: Any) -> None:
        heard.append(said["entry"].key)

    signal = signals.email_sent if status is Status.SENT else signals.email_released
    signal.connect(listen)
    entry = made(ledger, asker(app), DOUBTFUL)
    assert "resolve" in run("show", entry.key)
    try:
        assert "resolved as" in run("resolve", entry.key, verdict, *WHY)
    finally:
        signal.disconnect(listen)
    now = entry_of(ledger, entry.key)
    assert (now.status, now.audit[0].actor, now.audit[0].reason) == (status, "ann", "ticket 5")
    assert LogicalEmail.objects.get().status == status.value
    assert heard == [entry.key]
    assert (f"When task {entry.owner} is delivered again" in run("show", entry.key)) == (status is Status.SENT)
    (data,) = json.loads(run("show", entry.key, "--json"))
    assert data["unfinished"] == LogicalEmail.objects.get().unfinished == (status is Status.SENT)
    error = refused("resolve", entry.key, verdict, *WHY)
    assert error.returncode == 1
    assert "is not in doubt" in str(error)


def test_reopen_cancel_release(ledger: Ledger, app: Celery) -> None:
    """One after the other, each with its audit; several keys at once."""
    keys = [made(ledger, asker(app, n, f"task-{n}")).key for n in (1, 2)]
    assert run("reopen", *keys, *WHY).count("now released") == 2
    assert json.loads(run("cancel", keys[0], *WHY, "--json")) == [
        {"key": keys[0], "status": "cancelled", "generation": 2}
    ]
    who = replace(asker(app, 2), task_id="new")
    waiting = ledger.release(ledger.claim(who, POLICY).entry, POLICY, retry_in=900)
    if mirror := wiring.get_mirror():
        mirror.keep(waiting)
    run("release", "new", *WHY)
    now = entry_of(ledger, keys[1])
    assert (now.status, now.deadline) == (Status.RELEASED, None)
    assert [one.action for one in now.audit] == ["reopened", "released"]
    shown = run("show", keys[1])
    assert "reopened" in shown
    assert "ticket 5" in shown


def test_nothing_is_changed_if_one_of_the_keys_is_unknown(ledger: Ledger, app: Celery) -> None:
    """All are found before the first is changed."""
    key = made(ledger, asker(app)).key
    refused("reopen", key, "unknown", *WHY)
    assert entry_of(ledger, key).generation == 1


def test_a_name_for_several_changes_none(ledger: Ledger, app: Celery) -> None:
    """They are listed instead."""
    keys = [made(ledger, asker(app, n, f"task-{n}")).key for n in (1, 2)]
    error = str(refused("reopen", "<m@shop>", *WHY))
    assert all(key in error for key in keys)
    assert [entry_of(ledger, key).generation for key in keys] == [1, 1]


def test_what_is_running_is_refused(ledger: Ledger, app: Celery) -> None:
    """With the time that is left."""
    entry = ledger.claim(asker(app), POLICY).entry
    assert "by the store's clock" in str(refused("cancel", entry.key, *WHY))


# -- keeping order -----------------------------------------------------------------------------------------


def test_sweep(ledger: Ledger, app: Celery) -> None:
    """What it did, for people and for machines."""
    for n in (1, 2):
        entry = ledger.claim(asker(app, n, f"task-{n}"), POLICY).entry
        ledger.store.swap(replace(entry, deadline=After(-1)), entry.version)
    assert json.loads(run("sweep", "--limit", "1", "--json"))["released"] == 1
    assert "1 claims released" in run("sweep")


def test_purge(ledger: Ledger, app: Celery) -> None:
    """An age that is too short is refused; a dry run only counts."""
    made(ledger, asker(app))
    assert "too short an age" in str(refused("purge", "--older-than", "30m"))
    assert "longer than any email is kept" in str(refused("purge", "--older-than", "99999999999d"))
    assert json.loads(run("purge", "--dry-run", "--json")) == {"would_remove": 0}
    LogicalEmail.objects.update(updated_at=LogicalEmail.objects.get().created_at - timedelta(days=91))
    assert run("purge", "--dry-run").strip() == "1 would be removed"
    assert run("purge", "--older-than", "90d").strip() == "1 removed"
    assert not LogicalEmail.objects.exists()


def test_forget(ledger: Ledger, app: Celery, settings: Any) -> None:
    """Erased; with something unfinished it ends with 3 and says so."""
    from celery_idempotent.core.addresses import recipient

    who = recipient("ann@example.com", settings.SECRET_KEY, "masked")
    for n, replies in ((1, ACCEPTED), (2, DOUBTFUL)):
        made(ledger, asker(app, n, f"task-{n}"), {("0", who): next(iter(replies.values()))})
    error = refused("forget", "ann@example.com", *WHY)
    assert error.returncode == 3
    assert "1 are not finished" in str(error)
    run("resolve", "task-2", "--sent", *WHY)
    told = run("forget", "ann@example.com", *WHY)
    assert "erased from 1 emails; 1 had been cut off" in told
    assert entry_of(ledger, LogicalEmail.objects.get(owner="task-2").key).key in told
    assert run("forget", "ann@example.com", *WHY).strip() == "erased from 0 emails"


def test_doctor(ledger: Ledger, app: Celery, settings: Any) -> None:
    """Well, waiting, and broken: told apart by the exit code."""
    settings.SILENCED_SYSTEM_CHECKS = [f"celery_idempotent.{name}" for name in ("W020", "W021", "W012")]
    text = run("doctor")
    for about in ("ledger", "migrations", "connection", "in doubt: none", "stuck: none", "unfinished: none"):
        assert about in text
    assert "commanded" in text
    past = datetime.now(timezone.utc) - timedelta(minutes=6)
    row = OutboxMessage.objects.create(task_id="late", created_at=past, due_at=past)
    out = StringIO()
    with pytest.raises(CommandError) as error:
        call_command("idempotency", "doctor", stdout=out)
    assert error.value.returncode == 3
    assert "1 messages overdue in 'default'" in out.getvalue()
    row.delete()
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    for name in ("one", "two"):
        values = {"task": "gone", "error": "this process knows no task 'gone'"}
        OutboxMessage.objects.create(task_id=name, created_at=past, due_at=soon, **values)
    out = StringIO()
    with pytest.raises(CommandError) as error:
        call_command("idempotency", "doctor", stdout=out)
    assert error.value.returncode == 3
    assert "2 messages of gone in 'default', such as one, cannot be published: this process" in out.getvalue()
    assert "on time" not in out.getvalue()
    OutboxMessage.objects.all().delete()
    made(ledger, asker(app), DOUBTFUL)
    assert refused("doctor").returncode == 3
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "redis://127.0.0.1:1/0"}
    assert refused("doctor").returncode == 1
    settings.CELERY_IDEMPOTENT |= {"LEDGER": "memory://"}
    assert refused("doctor").returncode == 1


def test_a_ledger_without_tables(memory_ledger: Any, app: Celery) -> None:
    """What works does, and the rest says why not."""
    entry = made(memory_ledger, asker(app))
    assert "Done." in run("show", entry.key)
    assert "no tables" in str(refused("stats"))
    assert "only a whole key" in str(refused("cancel", "task-7", *WHY))
    run("sweep")


def test_the_tasks_for_beat(ledger: Ledger, app: Celery) -> None:
    """They do what the commands do."""
    app.finalize()
    entry = ledger.claim(asker(app), POLICY).entry
    ledger.store.swap(replace(entry, deadline=After(-1)), entry.version)
    done = app.tasks["celery_idempotent.sweep"].apply(kwargs={"limit": 5}).get()
    assert (done["released"], done["stuck"]) == (1, 0)
    assert app.tasks["celery_idempotent.purge"].apply(kwargs={"days": 90}).get() == 0
    json.dumps(done)


@contextmanager
def renamed(table: str, name: str) -> Iterator[None]:
    """Call a table of the default database otherwise for the with block."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {name}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {table}")


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (("purge",), LogicalEmail),
        (("purge", "--older-than", "1d"), OutboxMessage),
        (("forget", "ann@example.com", *WHY), Delivery),
        (("stats",), LogicalEmail),
    ],
)
def test_a_missing_table_is_named_with_the_cure(
    app: Celery, keep_ledger_in: Any, transactional_db: None, arguments: Any, model: Any
) -> None:
    """Whichever of them it is; and what an operator asks for is not told as if a task had been stopped."""
    keep_ledger_in("database")
    table = model._meta.db_table
    with renamed(table, f"{table}_gone"):
        told = str(refused(*arguments))
    assert f"has no table {table}: run `manage.py migrate" in told
    assert "task is tried again" not in told


def test_the_real_command_line(tmp_path: Path) -> None:
    """In a process of its own: exit codes, errors on stderr, JSON alone on stdout."""
    name = str(tmp_path / "ledger.sqlite3")
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_DATABASE": json.dumps({"ENGINE": "django.db.backends.sqlite3", "NAME": name}),
        "TEST_IDEMPOTENT": json.dumps({"LEDGER": "database"}),
    }

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-m", "django", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    broken = manage("idempotency", "doctor")
    assert broken.returncode == 1
    assert "run `manage.py migrate" in broken.stdout
    assert manage("migrate", "-v0").returncode == 0
    stats = manage("idempotency", "stats", "--json")
    assert (stats.returncode, json.loads(stats.stdout)) == (0, {"types": {}, "stuck": 0, "unfinished": 0})
    unknown = manage("idempotency", "show", "nothing")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "Traceback" not in unknown.stderr
    assert manage("idempotency", "resolve").returncode == 2
    helped = manage("idempotency", "--help")
    for word in (
        "stats",
        "show",
        "resolve",
        "reopen",
        "release",
        "cancel",
        "sweep",
        "purge",
        "forget",
        "doctor",
    ):
        assert word in helped.stdout
