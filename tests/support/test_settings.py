"""What a test sets is gone after it."""

from __future__ import annotations

from typing import Any

from tests import settings as configured


def test_what_is_put_into_the_settings_does_not_reach_the_next_test(settings: Any) -> None:
    """Also where a test changes the dict instead of setting another one."""
    settings.CELERY_IDEMPOTENT |= {"NAMESPACE": "of this test"}
    assert "NAMESPACE" not in configured.CELERY_IDEMPOTENT
