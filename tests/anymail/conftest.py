"""What the tests of Anymail share: each provider's settings for an API on this machine."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from anymail.backends.base_requests import AnymailRequestsBackend
from anymail.backends.mailgun import EmailBackend as Mailgun
from anymail.exceptions import AnymailNotSupportedWarning
from cryptography.fernet import Fernet
from django.core import mail
from django.test import Client
from requests.adapters import HTTPAdapter

from celery_idempotent import DeliveryInDoubt, Status
from celery_idempotent.testing import speed_up
from tests.anymail import signing
from tests.anymail.receipts import entry, metadata, send
from tests.anymail.signing import Post
from tests.support.providers import API

Use = Callable[..., None]
"""What the fixture `use` gives."""
KEY = Fernet.generate_key().decode()
SES = {
    "region_name": "us-east-1",
    "aws_access_key_id": "id",
    "aws_secret_access_key": "secret",
    "config": {"retries": {"total_max_attempts": 1, "mode": "standard"}},
}
PROVIDERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "resend": lambda url: {"RESEND_API_URL": url, "RESEND_API_KEY": "re_key"},
    "brevo": lambda url: {"BREVO_API_URL": f"{url}v3/", "BREVO_API_KEY": "key"},
    "mailgun": lambda url: {
        "MAILGUN_API_URL": f"{url}v3",
        "MAILGUN_API_KEY": "key",
        "MAILGUN_SENDER_DOMAIN": "mg.example.com",
    },
    "postmark": lambda url: {"POSTMARK_API_URL": url, "POSTMARK_SERVER_TOKEN": "token"},
    "sendgrid": lambda url: {"SENDGRID_API_URL": f"{url}v3/", "SENDGRID_API_KEY": "key"},
    "amazon_ses": lambda url: {"AMAZON_SES_CLIENT_PARAMS": {**deepcopy(SES), "endpoint_url": url}},
}


@pytest.fixture(autouse=True)
def _quick(memory_ledger: Any, tracked: None, monkeypatch: Any) -> Iterator[None]:
    """An empty ledger, no proxy, and tries that follow each other at once."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with speed_up(), warnings.catch_warnings():
        warnings.simplefilter("ignore", AnymailNotSupportedWarning)  # it warns of SendGrid altogether
        yield


@pytest.fixture
def use(settings: Any) -> Use:
    """Have mail sent through one provider, at ``api``; more goes into ``CELERY_IDEMPOTENT``."""

    def use(name: str, api: API | str, **more: Any) -> None:
        url = api if isinstance(api, str) else api.url
        settings.ANYMAIL = {
            **PROVIDERS.get(name, lambda url: {})(url),
            "REQUESTS_TIMEOUT": 10,
            "WEBHOOK_SECRET": "user:password",
        }
        settings.CELERY_IDEMPOTENT = {
            **settings.CELERY_IDEMPOTENT,
            "EMAIL_BACKEND": f"anymail.backends.{name}.EmailBackend",
            "ENCRYPTION_KEYS": [KEY],
            **more,
        }

    return use


@pytest.fixture
def outbox(use: Use) -> None:
    """Mail goes to Anymail's own test backend, which is wrapped by ours and has nothing in its outbox."""
    use("test", "")
    mail.outbox = []


@pytest.fixture
def session(monkeypatch: Any) -> Callable[[Any], None]:
    """Give Anymail's backend for Mailgun a session with retries."""

    def session(retries: Any) -> None:
        def create(self: Any) -> Any:
            made = AnymailRequestsBackend.create_session(self)
            for scheme in ("http://", "https://"):
                made.mount(scheme, HTTPAdapter(max_retries=retries))
            return made

        monkeypatch.setattr(Mailgun, "create_session", create)

    return session


@pytest.fixture
def clock(memory_ledger: Any, monkeypatch: Any) -> Callable[[float], None]:
    """Set the ledger's clock to so many seconds after the test began, and let it stand there."""
    began: datetime = memory_ledger.store.clock()

    def at(seconds: float) -> None:
        monkeypatch.setattr(memory_ledger.store, "clock", lambda: began + timedelta(seconds=seconds))

    at(0)
    return at


def certified(issuer: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    """Return what a server identifies itself with as ``name``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issuer.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: Any) -> trustme.CA:
    """An authority whose certificates the clients of this process accept."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    for name in ("REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "authority.pem"))
    return authority


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """A context for a server whose certificate the clients of this process accept."""
    return certified(authority)


@pytest.fixture
def told(settings: Any) -> Callable[[Post], int]:
    """Post to Anymail's view as a provider does, and return the status of the answer."""

    def told(post: Post) -> int:
        settings.ANYMAIL = {**settings.ANYMAIL, **signing.SETTINGS}
        name, body, headers = post
        client = Client(raise_request_exception=False)
        path = f"/anymail/{name}/tracking/"
        more = {header: value for header, value in headers.items() if header != "Content-Type"}
        return client.post(path, body, content_type=headers["Content-Type"], headers=more).status_code

    return told


@pytest.fixture
def doubtful(use: Use, settings: Any) -> Callable[..., dict[str, str]]:
    """Send a receipt whose reply is lost; return the metadata that the provider has got."""

    def doubtful(name: str, *to: str, **more: Any) -> dict[str, str]:
        with API("drop_after_accept") as api:
            use(name, api, ENCRYPTION_KEYS=[])  # or Resend would settle it by itself
            assert isinstance(send(*to, **more).result, DeliveryInDoubt)
            assert entry().status is Status.IN_DOUBT
            return metadata(api, name)

    return doubtful
