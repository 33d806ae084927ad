"""Private parts of other packages that this one reads, each by one function.

`tests/test_compat.py` has a test for each, which fails where a new version of the package has it no more.
"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper


def is_in_testcase(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether Django's `TestCase` has wrapped a test in a transaction on ``connection``.

    Reads ``_from_testcase``, which `django.test.TestCase` sets on its ``atomic()`` blocks. Django itself reads
    it to tell a test's transaction from one of the code under test (``durable=True``).
    """
    return any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


def is_forbidden_by_testcase(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether a test case of Django forbids queries on ``connection``: it is none of its ``databases``.

    Reads the class name ``_DatabaseFailure`` of what `django.test.SimpleTestCase` puts in place of ``connect``.
    """
    return type(connection.connect).__name__ == "_DatabaseFailure"
