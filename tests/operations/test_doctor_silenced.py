"""Checks that a project has silenced are none of the doctor's business either."""

from __future__ import annotations

from typing import Any

from celery_idempotent.operations.doctor import OK, Finding, examine


def test_what_is_silenced_counts_as_nothing_to_say(db: None, settings: Any) -> None:
    """Not as if the checks had not been made."""
    settings.CELERY_IDEMPOTENT = {"DATABSE": "default"}
    assert "check E001" in {one.about for one in examine()}
    settings.SILENCED_SYSTEM_CHECKS = [
        f"celery_idempotent.{name.removeprefix('check ')}"
        for name in (one.about for one in examine())
        if name.startswith("check ")
    ]
    assert Finding("system checks", OK, "nothing to say") in examine()
