"""Canaries: each private part of another package that `celery_idempotent.compat` reads is still there."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import SimpleTestCase, TestCase

from celery_idempotent.compat import is_forbidden_by_testcase, is_in_testcase


def seen_in(base: type[unittest.TestCase], look: Callable[[], bool]) -> bool:
    """Return what ``look`` tells inside a test of a class with the base ``base``."""
    seen = []

    class Test(base):  # type: ignore[misc, valid-type]
        def runTest(self) -> None:
            seen.append(look())

    result = unittest.TestResult()
    unittest.TestSuite([Test()]).run(result)
    assert result.wasSuccessful(), result.errors
    return seen[0]


@pytest.mark.django_db(transaction=True)
def test_django_marks_the_transaction_of_a_test_case() -> None:
    """``_from_testcase``: set in a `TestCase`, and nowhere else."""
    assert not is_in_testcase(connection)
    assert seen_in(TestCase, lambda: is_in_testcase(connection))
    assert not is_in_testcase(connection)


def test_django_forbids_queries_by_a_database_failure(django_db_blocker: Any) -> None:
    """``_DatabaseFailure``: in place of ``connect`` in a `SimpleTestCase`, and nowhere else."""
    with django_db_blocker.unblock():
        assert not is_forbidden_by_testcase(connection)
        assert seen_in(SimpleTestCase, lambda: is_forbidden_by_testcase(connection))
        assert not is_forbidden_by_testcase(connection)
