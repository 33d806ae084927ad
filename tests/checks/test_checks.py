"""Each system check fires on its mistake, and only then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis as client
from celery import Celery
from cryptography.fernet import Fernet

from celery_idempotent import IdempotentEmailTask, checks
from celery_idempotent.checks import mail, tasks
from celery_idempotent.checks.mail import check_mail
from celery_idempotent.checks.settings import check_settings, check_store
from celery_idempotent.tasks import worker
from tests.support.apps import current
from tests.support.servers import Redis


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A Celery app whose tasks the checks see, without tasks and functions that other test modules share."""
    seen, known = tasks.tasks, tasks.functions
    for module in (tasks, mail, checks.settings):
        monkeypatch.setattr(
            module, "functions", lambda: [f for f in known() if f.name.startswith(__name__)], raising=False
        )
        monkeypatch.setattr(
            module, "tasks", lambda: [t for t in seen() if t.name.startswith("shop.")], raising=False
        )
    with current(Celery("checks", set_as_current=False)) as app:
        yield app


def ids(messages: list[Any]) -> list[str]:
    return [message.id.removeprefix("celery_idempotent.") for message in messages]


def task(app: Celery, **options: Any) -> Any:
    def body(order: int, to: str) -> None: ...

    return app.task(
        base=IdempotentEmailTask, name="shop.confirm", shared=False, **{"key_fields": ("order",), **options}
    )(body)


def test_a_good_project_is_silent(app: Celery, settings: Any, tracked: None) -> None:
    """Nothing to say about the settings of these tests."""
    task(app, autoretry_for=(OSError,), retry_backoff=True, retry_kwargs={"countdown": 1}, retry_jitter=False)
    found = check_settings(None) + tasks.check_tasks(None) + check_mail(None)
    assert ids(found) == []


WRONG = {
    "a key field that is no parameter": ({"key_fields": ("order", "too")}, "'too'"),
    "a dotted path into no parameter": ({"key_fields": ("basket.id",)}, "'basket.id'"),
    "no key fields": ({"key_fields": ()}, "key_fields is empty"),
    "a string for a tuple": ({"key_fields": "order"}, "make it a tuple"),
    "a fingerprint field that is no parameter": ({"fingerprint_fields": ("body",)}, "'body'"),
    "an unknown on_conflict": ({"on_conflict": "wait"}, "'wait'"),
    "an unknown on_mismatch": ({"on_mismatch": "wait"}, "'wait'"),
    "an unknown in_doubt": ({"in_doubt": "pray"}, "verifier"),
    "an unknown window mode": ({"window_mode": "tumbling"}, "'tumbling'"),
    "a window of zero": ({"window": timedelta(0)}, "positive timedelta"),
    "a window that is negative": ({"window": timedelta(days=-1)}, "positive timedelta"),
    "a window in seconds": ({"window": 60}, "positive timedelta"),
    "a lease of zero": ({"lease": 0}, "positive number of seconds"),
    "a send_timeout that is no number": ({"send_timeout": "60"}, "positive number of seconds"),
    "a fixed window without event time": (
        {"window": timedelta(days=1), "window_mode": "fixed"},
        "event_time_field",
    ),
    "a fixed window without length": (
        {"window_mode": "fixed", "event_time_field": "to"},
        "length of its buckets",
    ),
    "an event time that is no parameter": ({"event_time_field": "at"}, "'at'"),
    "a key function that cannot be called": ({"key_function": "order"}, "has to be a function"),
    "an email type that no store can keep": ({"email_type": "x" * 201}, "longer than 200"),
    "exceptions that are none": ({"in_doubt_for": ("TimeoutError",)}, "tuple of exception classes"),
    "an exception without its tuple": ({"in_doubt_for": ValueError}, "tuple of exception classes"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG.keys())
def test_e010_an_unusable_option(app: Celery, options: dict[str, Any], text: str) -> None:
    """The message names the task, the option and the way out."""
    task(app, **options)
    found = tasks.check_tasks(None)
    assert ids(found) == ["E010"]
    assert found[0].msg.startswith("task shop.confirm: ")
    assert text in found[0].msg


def test_w011_a_window_longer_than_the_retention(app: Celery, settings: Any) -> None:
    """The ledger would forget before the window ends."""
    task(app, window=timedelta(days=91))
    assert ids(tasks.check_windows(None)) == ["W011"]
    settings.CELERY_IDEMPOTENT = {"RETENTION": timedelta(days=92)}
    assert ids(tasks.check_tasks(None)) == []


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [({"on_conflicts": "skip"}, "on_conflict"), ({"in_doubts": "hold"}, "in_doubt"), ({"leese": 5}, "lease")],
)
def test_w012_a_misspelt_option(app: Celery, wrong: dict[str, Any], meant: str) -> None:
    """Celery takes any option; one that nothing reads would silently do nothing."""
    task(app, **wrong)
    found = tasks.check_tasks(None)
    assert ids(found) == ["W012"]
    assert next(iter(wrong)) in found[0].msg
    assert meant in str(found[0].hint)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"DATABSE": "default"}, ["E001"]),
        ({"RECIPIENTS": "all"}, ["E002"]),
        ({"RETENTION": 90}, ["E002"]),
        ({"LEDGER": "nowhere.Store"}, ["E002"]),
        ({"LEDGER": "rpc://"}, ["E002"]),
        ({"LEDGER": "cache+memory://"}, ["E002"]),
        ({"LEDGER": "db+sqlite:///results.sqlite"}, ["E002"]),
        ({"REDIS_WAIT": 1}, ["E002"]),
        ({"REDIS_WAIT": (1, 0)}, ["E002"]),
        ({"REDIS_WAIT": (1, 100)}, []),
        ({"CLASSIFY_REPLY": "shop.mail.nowhere"}, ["E002"]),
        ({"CLASSIFY_REPLY": 550}, ["E002"]),
        ({"CLASSIFY_REPLY": "celery_idempotent.mail.smtp.requested_waits.read_wait"}, []),
        ({"CONNECTION_IDLE": -1}, ["E002"]),
        ({"CONNECTION_IDLE": True}, ["E002"]),
        ({"CONNECTION_IDLE": float("inf")}, ["E002"]),
        ({"CONNECTION_IDLE": 0}, []),
        ({"DATABASE": "archive"}, ["E003"]),
        ({"OUTBOX_DATABASES": ["default", "archive"]}, ["E003"]),
        ({"OUTBOX_DATABASES": []}, ["E002"]),
        ({"OUTBOX_DATABASES": "default"}, ["E002"]),
        ({"ENCRYPTION_KEYS": ["short"]}, ["E002"]),
        ({"ENCRYPTION_KEYS": Fernet.generate_key().decode()}, ["E002"]),
        ({"ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}, []),
        ({"REDELIVER_AFTER": 0}, ["E002"]),
        ({"REDELIVER_AFTER": -5}, ["E002"]),
        ({"REDELIVER_AFTER": timedelta(minutes=5)}, ["E002"]),
        ({"REDELIVER_AFTER": float("inf")}, ["E002"]),
        ("database", ["E002"]),
    ],
)
def test_wrong_settings(settings: Any, given: Any, found: list[str]) -> None:
    """E001 unknown name, E002 unusable value, E003 unknown database."""
    settings.CELERY_IDEMPOTENT = given
    assert ids(check_settings(None)) == found


def test_keys_without_the_package_that_uses_them(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """E002 names the extra to install."""
    settings.CELERY_IDEMPOTENT = {"ENCRYPTION_KEYS": [Fernet.generate_key().decode()]}
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    found = check_settings(None)
    assert ids(found) == ["E002"]
    assert "celery-idempotent[encryption]" in found[0].msg


def test_a_password_in_the_ledgers_url_is_not_shown(settings: Any) -> None:
    """Checks are printed into logs."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": "mongodb://me:secret@host/0"}
    (found,) = check_settings(None)
    assert "secret" not in found.msg
    assert "mongodb://***@host/0" in found.msg


def test_w030_a_redis_that_evicts_and_w031_one_that_is_gone(db: None, settings: Any, redis: Redis) -> None:
    """Asked with ``check --deploy`` only; a Redis in order is silent."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": redis.url}
    assert ids(check_store(None)) == []
    with client.Redis.from_url(redis.url) as connected:
        connected.config_set("maxmemory-policy", "volatile-lru")
        try:
            assert ids(check_store(None)) == ["W030"]
        finally:
            connected.config_set("maxmemory-policy", "noeviction")
    settings.CELERY_IDEMPOTENT = {"LEDGER": "redis://127.0.0.1:1/0"}
    assert ids(check_store(None)) == ["W031"]
    settings.CELERY_IDEMPOTENT = {"LEDGER": "redis+cluster://127.0.0.1:1"}
    assert ids(check_store(None)) == ["W031"]
    settings.CELERY_IDEMPOTENT = {"LEDGER": "memory://"}
    assert ids(check_store(None)) == ["W030"]
    settings.CELERY_IDEMPOTENT = {"LEDGER": "database"}
    assert ids(check_store(None)) == []


def test_a_worker_says_at_its_start_what_is_wrong_with_the_ledger(settings: Any, caplog: Any) -> None:
    """And starts all the same."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": "redis://127.0.0.1:1/0"}
    worker.examine_ledger(SimpleNamespace(app=Celery("starting", set_as_current=False)))
    assert "the ledger in Redis does not answer" in caplog.text


def test_w020_email_tasks_without_the_backend(app: Celery, settings: Any) -> None:
    """Django's test runner has put its own backend in place here."""
    assert ids(check_mail(None)) == []
    task(app)
    assert ids(check_mail(None)) == ["W020"]


def test_w021_no_timeout(settings: Any, tracked: None) -> None:
    """A stalled server would hold the worker."""
    settings.EMAIL_TIMEOUT = None
    assert ids(check_mail(None)) == ["W021"]


def test_mailers_of_django_6_1(app: Celery, settings: Any) -> None:
    """W020, W021, W023 and E022 look at MAILERS where there is one, alias by alias."""
    task(app)
    ours = "celery_idempotent.mail.EmailBackend"
    settings.MAILERS = {
        "default": {"BACKEND": ours, "OPTIONS": {"host": "mail", "timeout": 30}},
        "bulk": {"BACKEND": ours, "OPTIONS": {"backend": "django.core.mail.backends.console.EmailBackend"}},
    }
    assert ids(check_mail(None)) == []
    settings.MAILERS = {"default": {"BACKEND": ours}, "bulk": {}}
    found = check_mail(None)
    assert ids(found) == ["W021", "W023"]
    assert "using='bulk'" in found[1].msg
    settings.MAILERS = {"default": {}, "loop": {"BACKEND": ours, "OPTIONS": {"backend": ours}}}
    assert ids(check_mail(None)) == ["W020", "E022"]


def test_e022_a_backend_that_wraps_itself(settings: Any, tracked: None) -> None:
    """It would never send."""
    settings.CELERY_IDEMPOTENT = {"EMAIL_BACKEND": "celery_idempotent.mail.EmailBackend"}
    assert ids(check_mail(None)) == ["E022"]
