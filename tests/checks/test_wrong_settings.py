"""Settings that cannot be used are told by the checks, which nothing ends before they are through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.checks import run_checks

from celery_idempotent.contrib import rq


@pytest.fixture(autouse=True)
def _function() -> Callable[..., Any]:
    """A function of another queue, so that the checks of functions have something to look at."""

    @rq.idempotent_email(key_fields=("n",))
    def settled(n: int) -> None: ...

    return settled


def found() -> list[str]:
    """Return what our checks say under E002."""
    messages = run_checks(tags=["celery_idempotent"])
    return [str(message.msg) for message in messages if message.id == "celery_idempotent.E002"]


def test_settings_that_are_no_dict(settings: Any) -> None:
    """Every check that reads a setting leaves it to one of them to say so."""
    settings.CELERY_IDEMPOTENT = "database"
    assert found() == ["CELERY_IDEMPOTENT has to be a dict"]


@pytest.mark.parametrize("path", ["nowhere.EmailBackend", "django.core.mail.NoBackend", "EmailBackend"])
@pytest.mark.parametrize("name", ["EMAIL_BACKEND", "CELERY_IDEMPOTENT"])
def test_a_mail_backend_that_is_not_there(settings: Any, tracked: None, name: str, path: str) -> None:
    """A mistyped path is told as one: `manage.py migrate` runs the checks as well, and needs no mail."""
    setattr(settings, name, path if name == "EMAIL_BACKEND" else {"EMAIL_BACKEND": path})
    (said,) = found()
    assert said.startswith(f"the email backend {path!r} cannot be imported")
