"""The system checks about providers and their clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anymail.backends.base_requests import AnymailRequestsBackend
from anymail.backends.mailgun import EmailBackend as Mailgun
from cryptography.fernet import Fernet
from django.core.checks import run_checks
from django.core.mail import EmailMessage
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from celery_idempotent.contrib.anymail.retries import tries
from tests.esp.conftest import SES
from tests.support.providers import API

Use = Callable[..., None]
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
    from anymail.backends.amazon_ses import EmailBackend

    settings.ANYMAIL = {"AMAZON_SES_CLIENT_PARAMS": {**SES, "config": {"retries": retries}}}
    backend = EmailBackend()
    backend.open()
    assert tries(backend) == count
    backend.close()


def test_boto3_does_what_the_check_says(use: Use, settings: Any) -> None:
    """A reply that is lost is asked for again, as often as was said: each may be another copy."""
    from anymail.backends.amazon_ses import EmailBackend
    from anymail.exceptions import AnymailAPIError

    with API("drop_after_accept") as api:
        settings.ANYMAIL = {
            "AMAZON_SES_CLIENT_PARAMS": {
                **SES,
                "endpoint_url": api.url,
                "config": {"retries": {"mode": "standard"}},
            }
        }
        backend = EmailBackend()
        backend.open()
        with pytest.raises(AnymailAPIError):
            backend.send_messages([EmailMessage("Hi", "text", to=["ann@example.com"])])
        assert len(api.accepted) == tries(backend) == 3
        backend.close()


def test_boto3_configured_from_outside(use: Use, settings: Any, monkeypatch: Any) -> None:
    """AWS_MAX_ATTEMPTS counts as well."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    use("amazon_ses", "")
    settings.ANYMAIL = {"AMAZON_SES_CLIENT_PARAMS": {"region_name": "us-east-1"}}
    assert found() == []


SESSIONS = [
    (0, []),
    (2, []),  # of connections alone: no request has been made then
    (Retry(total=0, allowed_methods=None), []),
    (Retry(total=False, allowed_methods=None), []),
    (Retry(total=None, connect=3, read=False, allowed_methods=None), []),
    (Retry(total=None, connect=0, read=2, allowed_methods=["POST"]), ["celery_idempotent.W024"]),
    (Retry(total=3, allowed_methods=None), ["celery_idempotent.W024"]),
]


@pytest.mark.parametrize(("retries", "expected"), SESSIONS)
def test_a_session_that_retries(retries: Any, expected: list[str], use: Use, monkeypatch: Any) -> None:
    """W024 for requests and urllib3."""

    def create(self: Any) -> Any:
        session = AnymailRequestsBackend.create_session(self)
        session.mount("http://", HTTPAdapter(max_retries=retries))
        return session

    monkeypatch.setattr(Mailgun, "create_session", create)
    use("mailgun", "http://127.0.0.1:1/")
    assert found() == expected


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
