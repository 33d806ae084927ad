"""The examples of docs/how-to/provider-keys.md, run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from cryptography.fernet import Fernet
from django.core.mail import EmailMessage

from celery_idempotent import IdempotentEmailTask, Status
from celery_idempotent.ledger.status import DeliveryStatus
from celery_idempotent.mail import providers
from celery_idempotent.mail.handover import HandOver
from celery_idempotent.mail.providers import Deduplication
from tests.support.mailserver import DROP_AFTER_ACCEPT
from tests.support.providers import KeyedSMTP

PAGE = Path(__file__).parents[2] / "docs/how-to/provider-keys.md"
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
app = Celery("provider-keys-docs", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=IdempotentEmailTask, key_fields=("order",), name="provider-keys-docs")
def confirm(order: int) -> str:
    EmailMessage("Your order", f"Order {order}", to=["ann@example.com"]).send()
    return "sent"


@pytest.fixture(autouse=True)
def shop_mail(monkeypatch: Any) -> ModuleType:
    """The page's ``shop/mail.py``, importable under that name."""
    package, module = ModuleType("shop"), ModuleType("shop.mail")
    for name, code in BLOCKS:
        if name == "shop/mail.py":
            exec(code, vars(module))
    vars(package)["mail"] = module
    monkeypatch.setitem(sys.modules, "shop", package)
    monkeypatch.setitem(sys.modules, "shop.mail", module)
    return module


def settings_of(place: int, monkeypatch: Any) -> dict[str, Any]:
    """Return CELERY_IDEMPOTENT of the page's n-th settings, with a key in place of the dots."""
    monkeypatch.setenv("ENCRYPTION_KEY", Fernet.generate_key().decode())
    found: dict[str, Any] = {"os": __import__("os")}
    exec([code for name, code in BLOCKS if name == "settings.py"][place], found)
    conf: dict[str, Any] = found["CELERY_IDEMPOTENT"]
    if conf["ENCRYPTION_KEYS"] == [...]:
        conf["ENCRYPTION_KEYS"] = [Fernet.generate_key().decode()]
    return conf


@pytest.mark.parametrize(("place", "header"), [(0, "Resend-Idempotency-Key"), (1, "X-Once-Only")])
def test_the_pages_settings_end_a_doubt(place: int, header: str, settings: Any, monkeypatch: Any) -> None:
    """Resend, and the provider that is added in ten lines: a lost reply, one copy, SENT."""
    monkeypatch.setattr(HandOver, "pauses", (0.0, 0.0))
    settings.CELERY_IDEMPOTENT = {**settings.CELERY_IDEMPOTENT, **settings_of(place, monkeypatch)}
    with KeyedSMTP(header, dot=[DROP_AFTER_ACCEPT, "250 ok"]) as server:
        settings.EMAIL_PORT = server.port
        assert confirm.apply((1,)).get() == "sent"
    assert len(server.accepted) == 1
    assert len(server.keys) == 2
    assert server.keys[0] is not None
    assert confirm.entry_for(1).status is Status.SENT


def test_ten_lines() -> None:
    """As the issue wants it."""
    added = [code for name, code in BLOCKS if name == "shop/mail.py"]
    assert all(len([line for line in code.splitlines() if line.strip()]) <= 10 for code in added)


def test_the_answers_of_an_api(shop_mail: Any) -> None:
    """Each sign is read for what the page says."""
    api: Deduplication = shop_mail.API
    assert not api.in_message
    read = [api.read(409, "already_sent"), api.read(409, "in_progress"), api.read(422, "key_reused")]
    accepted, doubt = DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT
    assert [reply and reply.status for reply in read] == [accepted, doubt, doubt]
    assert [reply is not None and api.is_final(reply) for reply in read] == [False, False, True]
    assert api.read(409, "something else") is None
    assert api.read(500, "already_sent") is None


def test_the_table_of_the_page() -> None:
    """Header and time of each provider as the code has them."""
    rows = re.findall(r"^\| (\w+) \| (\w+)[^|]*\| `([^`]+)`[^|]*\| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    known = {
        ("Resend", "API"): providers.API["Resend"],
        ("Resend", "SMTP"): providers.SMTP["resend"],
        ("Brevo", "API"): providers.API["Brevo"],
        ("Lettermint", "SMTP"): providers.SMTP["lettermint"],
    }
    assert {(name, way) for name, way, _, _ in rows} == set(known)
    for name, way, header, how_long in rows:
        number, unit = float(how_long.split()[0]), 3600 if "hour" in how_long else 60
        assert (known[name, way].header, known[name, way].seconds) == (header, number * unit)
