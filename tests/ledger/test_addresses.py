"""One form for everything that means the same mailbox."""

from __future__ import annotations

import pytest

from celery_idempotent.ledger.addresses import normalise

JOSE = "jos\u00e9@example.com"


@pytest.mark.parametrize(
    "other",
    [
        "jose\u0301@example.com",
        "JOSE\u0301@EXAMPLE.COM",
        "Jos\u00e9 <jos\u00e9@example.com>",
        '"jos\u00e9" <jos\u00e9@Example.com>',
    ],
)
def test_accents_are_one_letter_or_two(other: str) -> None:
    """A letter that was taken apart, as some systems do, is no other mailbox."""
    assert normalise(other) == JOSE


def test_other_letters_are_other_mailboxes() -> None:
    """What only looks alike stays apart: nobody must be taken for somebody else."""
    assert (
        len(
            {normalise(a) for a in (JOSE, "jose@example.com", "jos\u0435@example.com", "\uff4aose@example.com")}
        )
        == 4
    )
