"""The system checks about providers and their clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anymail.backends.amazon_ses import EmailBackend as SESBackend
from anymail.backends.mailgun import EmailBackend as Mailgun
from anymail.exceptions import AnymailAPIError
from cryptography.fernet import Fernet
from django.core.checks import run_checks
from django.core.mail import EmailMessage
from urllib3 import Retry

from celery_idempotent.contrib.anymail.client_retries import count_tries
from tests.anymail.conftest import SES, Use
from tests.anymail.receipts import ANN
from tests.support.providers import API

IDS = ("celery_idempotent.W024", "celery_idempotent.W025", "celery_idempotent.E002")


def found() -> list[str]:
    """Return the ids that the checks of this package report."""
    return [message.id for message in run_checks(tags=["celery_idempotent"]) if message.id in IDS]


def text() -> str:
    return " ".join(f"{message.msg} {message.hint}" for message in run_checks(tags=["celery_idempotent"]))


def test_boto3_retries_by_default(use: Use, settings: Any) -> None:
    """W024: three tries of one send; with one, nothing is reported."""
    use("amazon_ses", "http://127.0.0.1:1/")
    settings.ANYMAIL = {"AMAZON_SES_CLIENT_PARAMS": {"region_name": "us-east-1"}}
    assert found() == ["celery_idempotent.W024"]
    assert "3 times" in text()
    assert "total_max_attempts" in text()
    settings.ANYMAIL = {"AMAZON_SES_CLIENT_PARAMS": SES}
    assert found() == []


BOTO = [
    ({"max_attempts": 0}, 1),
    ({"max_attempts": 2}, 3),
    ({"total_max_attempts": 1}, 1),
    ({"mode": "standard"}, 3),
    ({"mode": "adaptive", "total_max_attempts": 1}, 1),
    ({"mode": "legacy"}, 5),
]


@pytest.mark.parametrize(("retries", "count"), BOTO)
def test_how_often_boto3_tries(retries: dict[str, Any], count: int, use: Use, settings: Any) -> None:
    """As botocore itself counts."""
    settings.ANYMAIL = {"AMAZON_SES_CLIENT_PARAMS": {**SES, "config": {"retries": retries}}}
    backend = SESBackend()
    backend.open()
    assert count_tries(backend) == count
    backend.close()


FROM_OUTSIDE: list[tuple[dict[str, str], str, dict[str, Any], int]] = [
    ({}, "", {}, 3),
    ({}, "", {"mode": "standard"}, 3),
    ({}, "", {"mode": "legacy"}, 5),
    ({}, "", {"total_max_attempts": 1}, 1),
    ({"AWS_MAX_ATTEMPTS": "1"}, "", {}, 1),
    ({"AWS_MAX_ATTEMPTS": "2"}, "", {}, 2),
    ({"AWS_RETRY_MODE": "legacy"}, "", {}, 5),
    ({"AWS_MAX_ATTEMPTS": "4"}, "", {"total_max_attempts": 2}, 2),
    ({}, "max_attempts = 1", {}, 1),
    ({}, "max_attempts = 4\nretry_mode = standard", {}, 4),
]


@pytest.mark.parametrize(("environment", "file", "retries", "count"), FROM_OUTSIDE)
def test_boto3_does_what_the_check_says(
    environment: dict[str, str],
    file: str,
    retries: dict[str, Any],
    count: int,
    use: Use,
    settings: Any,
    monkeypatch: Any,
    tmp_path: Path,
) -> None:
    """As many requests as were said reach the server when replies are lost, wherever boto3 is configured."""
    (tmp_path / "config").write_text(f"[default]\n{file}\n")
    for name, value in ({"AWS_CONFIG_FILE": str(tmp_path / "config")} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # boto3's pauses between its tries
    with API("drop_after_accept") as api:
        use("amazon_ses", api)
        client = {name: value for name, value in SES.items() if name != "config"} | {"endpoint_url": api.url}
        settings.ANYMAIL = {
            "AMAZON_SES_CLIENT_PARAMS": client | ({"config": {"retries": retries}} if retries else {})
        }
        assert found() == (["celery_idempotent.W024"] if count > 1 else [])
        backend = SESBackend()
        backend.open()
        with pytest.raises(AnymailAPIError):
            backend.send_messages([EmailMessage("Hi", "text", to=[ANN])])
        assert len(api.accepted) == count_tries(backend) == count
        backend.close()


SESSIONS = [
    (0, 1),
    (2, 3),  # a POST too: by "other" errors, which is what urllib3 calls a TLS record that is broken
    (Retry(total=2, read=False, other=1), 2),
    (Retry(connect=2, read=0, status=0, other=0), 1),  # of connections alone: no request has been made then
    (Retry(total=0, allowed_methods=None), 1),
    (Retry(total=False, allowed_methods=None), 1),
    (Retry(total=3, allowed_methods=None, status_forcelist=[502]), 4),
    (Retry(total=5, other=0, status=1, read=2, allowed_methods=None, status_forcelist=[502]), 4),
    (Retry(total=5, other=0, status=1, read=False, allowed_methods=["POST"], status_forcelist=[502]), 2),
    (Retry(total=5, other=0, status=0, read=1, allowed_methods=None), 2),
    (Retry(total=None, connect=3, other=0, read=1, status=0, allowed_methods=["POST"]), 2),
]


@pytest.mark.parametrize(("retries", "count"), SESSIONS)
def test_a_session_that_retries(retries: Any, count: int, use: Use, session: Any) -> None:
    """W024 for requests and urllib3, if one request may be made more than once."""
    session(retries)
    use("mailgun", "https://127.0.0.1:1/")
    assert found() == (["celery_idempotent.W024"] if count > 1 else [])
    assert count == 1 or f"{count} times" in text()


@pytest.mark.parametrize("retries", [Retry(total=None), Retry(total=None, connect=3, read=False)])
def test_a_session_that_never_gives_up(retries: Any, use: Use, session: Any) -> None:
    """W024 where urllib3 counts nothing."""
    session(retries)
    use("mailgun", "https://127.0.0.1:1/")
    assert found() == ["celery_idempotent.W024"]
    assert "any number of times" in text()


@pytest.mark.parametrize(("retries", "count"), SESSIONS)
def test_a_session_does_what_the_check_says(
    retries: Any, count: int, use: Use, session: Any, tls: Any, settings: Any
) -> None:
    """As many requests as were said reach the server, by faults of all kinds, one after another."""
    session(retries)
    most = 0
    faults = ["broken_tls", "drop_after_accept", (502, ""), (503, "", {"Retry-After": "0"})]
    for script in [[fault] for fault in faults] + [[faults[1], faults[1], faults[2]]]:
        with API(*script, tls=tls) as api:
            use("mailgun", api)
            backend = Mailgun()
            backend.open()
            with pytest.raises(AnymailAPIError):
                backend.send_messages([EmailMessage("Hi", "text", to=[ANN])])
            assert count_tries(backend) == count
            backend.close()
        most = max(most, len(api.requests))
    assert most == count


@pytest.mark.parametrize("name", ["mailgun", "postmark", "brevo", "test"])
def test_anymail_as_it_comes_is_silent(name: str, use: Use) -> None:
    """No warning without a reason."""
    use(name, "http://127.0.0.1:1/", ENCRYPTION_KEYS=[])
    assert found() == []


def test_a_client_that_cannot_be_made_is_not_this_checks_matter(use: Use, settings: Any) -> None:
    """A missing API key comes up by itself, and no check may raise."""
    use("mailgun", "")
    settings.ANYMAIL = {}
    assert found() == []


def test_resend_without_encryption_keys(use: Use) -> None:
    """W025: it could settle doubts, and may not keep what it would need for that."""
    use("resend", "http://127.0.0.1:1/", ENCRYPTION_KEYS=[])
    assert found() == ["celery_idempotent.W025"]
    assert "Fernet.generate_key" in text()
    use("resend", "http://127.0.0.1:1/")
    assert found() == []


def test_a_provider_by_smtp(settings: Any) -> None:
    """W025 and E002 for the setting, with what it can be."""
    conf = dict(settings.CELERY_IDEMPOTENT)
    settings.CELERY_IDEMPOTENT = {**conf, "PROVIDER": "resend"}
    assert found() == ["celery_idempotent.W025"]
    settings.CELERY_IDEMPOTENT = {
        **conf,
        "PROVIDER": "resend",
        "ENCRYPTION_KEYS": [Fernet.generate_key().decode()],
    }
    assert found() == []
    settings.CELERY_IDEMPOTENT = {**conf, "PROVIDER": "resent"}
    assert found() == ["celery_idempotent.E002"]
    assert "'resent'" in text()
    assert "'lettermint'" in text()


@pytest.mark.parametrize("keys", ["a string", ["short"], [""], [7], None])
def test_keys_that_cannot_be_used(keys: Any, settings: Any) -> None:
    """E002 says what a key has to be, and shows none."""
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, "ENCRYPTION_KEYS": keys}
    assert "celery_idempotent.E002" in found()
    assert "ENCRYPTION_KEYS" in text()
    assert "short" not in text()
