"""A ledger's URL that cannot be used is told by the checks, and its password is not."""

from __future__ import annotations

from typing import Any

import pytest

from celery_idempotent.checks.settings import check_settings


@pytest.mark.parametrize(
    "url",
    [
        "redis://:zq/xv@host:6379/0",
        "redis://:zq#xv@host:6379/0",
        "redis://:zq@xv@host:port/0",
        "redis://:zqxv@host:port/0",
        "redis://host:port/0?password=zqxv",
        "mongodb://me:zq/xv@host/0",
        "mongodb://host/0?password=zqxv",
    ],
)
def test_a_password_is_not_quoted(settings: Any, url: str) -> None:
    """Whatever characters it has, and wherever the URL is wrong: checks are printed into logs."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": url}
    (found,) = check_settings(None)
    assert found.id == "celery_idempotent.E002"
    assert "zq" not in found.msg
    assert "xv" not in found.msg
    assert "host" in found.msg


def test_what_is_wrong_is_still_said(settings: Any) -> None:
    """Names that the error quotes and the URL does not have are no secrets."""
    settings.CELERY_IDEMPOTENT = {"LEDGER": "sentinel://host:26379/0"}
    (found,) = check_settings(None)
    assert "'master_name'" in found.msg
